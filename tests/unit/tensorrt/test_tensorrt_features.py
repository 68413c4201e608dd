"""Options and arguments that change what the engine does, seen from what it then does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from engine_calls import ask, config, make_engine, request, started, until
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.trtllm.construction import engine_arguments
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.library import load_library
from shepherd_worker.engine.trtllm.options import Transceiver, TrtllmOptions
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import Retention, RetentionRange
from trtllm_fake import use_fake_trtllm

PROMPT = range(10, 27)


def trtllm(version: str = "1.3.0rc20", **limits: Any) -> TrtllmEngine:
    use_fake_trtllm(version)
    engine = create_engine("trtllm", config(**limits))
    assert isinstance(engine, TrtllmEngine)
    return engine


@pytest.mark.parametrize("chosen", get_args(Transceiver))
def test_every_transceiver_is_one_of_tensorrt_llms(chosen: Transceiver) -> None:
    use_fake_trtllm()
    options = TrtllmOptions(cache_transceiver=chosen)
    limits = config(disaggregated=True, transfer_lease_s=600, trtllm=options)
    made = engine_arguments(limits, load_library())["cache_transceiver_config"]

    assert made["kv_transfer_timeout_ms"] == 600_000
    assert made["backend"] == ("DEFAULT" if chosen == "auto" else chosen.upper())
    aggregated = engine_arguments(config(trtllm=options), load_library())
    assert "cache_transceiver_config" not in aggregated


async def test_autodeploy_answers_as_the_other_backend_does() -> None:
    embedded = make_engine("fake")
    async with started(embedded):
        expected = await ask(embedded, request(PROMPT))
    engine = trtllm(trtllm=TrtllmOptions(trtllm_backend="autodeploy"))
    async with started(engine):
        answer = await ask(engine, request(PROMPT))
        assert engine._started is not None
        assert type(engine._started.llm).__module__ == "tensorrt_llm._torch.auto_deploy"

    assert answer.token_ids == expected.token_ids


async def test_speculation_changes_no_answer_and_is_counted() -> None:
    repeated = [5, 6, 7, 8] * 6
    plain, guessing = trtllm(), trtllm(speculative="ngram", speculative_window=2)
    async with started(plain), started(guessing):
        expected = await ask(plain, request(repeated, 40))
        answer = await ask(guessing, request(repeated, 40))
        await until(lambda: guessing.stats().drafted_tokens_total > 0)
        stats = guessing.stats()

    assert answer.token_ids == expected.token_ids
    assert 0 < stats.drafts_total <= stats.drafted_tokens_total
    assert plain.stats().drafted_tokens_total == 0


async def test_a_version_that_cannot_keep_tenants_apart_refuses_their_salts() -> None:
    use_fake_trtllm()
    library = load_library()
    without = dataclasses.replace(
        library, generate_arguments=library.generate_arguments - {"cache_salt"}
    )
    engine = TrtllmEngine(config(), without)
    async with started(engine):
        with pytest.raises(InvalidRequestError, match="cannot keep tenants apart"):
            await ask(engine, request(PROMPT, cache_salt="tenant"))
        assert len((await ask(engine, request(PROMPT))).token_ids) == 8


async def test_what_a_request_asks_of_the_cache_is_said_in_tensorrt_llms_words(
    tmp_path: Path,
) -> None:
    (tmp_path / "tuned").mkdir()
    engine = trtllm(trtllm=TrtllmOptions(lora_directory=str(tmp_path)))
    ranges = (RetentionRange(start=0, stop=16, priority=100, duration_s=9.0),)
    retention = Retention(ranges=ranges, decode_priority=20, decode_duration_s=0.5)
    call = request(PROMPT, cache_salt="salt", lora_name="tuned", retention=retention)
    async with started(engine):
        assert engine._started is not None
        extras = engine._started.submissions.extras(call)
        plain = engine._started.submissions.extras(request(PROMPT))

    kept = extras["kv_cache_retention_config"]
    (pinned,) = kept.token_range_retention_configs
    assert (pinned.token_start, pinned.token_end, pinned.priority) == (0, 16, 100)
    assert pinned.duration_ms == timedelta(seconds=9)
    assert (kept.decode_retention_priority, kept.decode_duration_ms) == (
        20,
        timedelta(milliseconds=500),
    )
    lora = extras["lora_request"]
    assert (lora.lora_name, lora.lora_int_id) == ("tuned", 1)
    assert lora.lora_path == str(tmp_path / "tuned")
    assert extras["cache_salt"] == "salt"
    assert plain == {}


def test_ranks_may_import_the_main_module_without_starting_anything() -> None:
    """TensorRT-LLM's processes do, under MPI and where they are spawned."""
    code = (
        "import runpy, sys; runpy.run_module('shepherd_worker', run_name='__mp_main__');"
        "print(sorted({'dynamo', 'tensorrt_llm', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
