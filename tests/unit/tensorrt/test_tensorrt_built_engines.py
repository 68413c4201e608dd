"""Engines that were built ahead: served by the versions that can, refused by the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine_calls import ask, config, make_engine, replay, request, started
from shepherd_worker.engine import create_engine
from shepherd_worker.errors import UnusableInputError
from tiny_models import tiny_model
from trtllm_fake import use_fake_trtllm

PROMPT = range(10, 27)


def built(directory: Path) -> dict[str, Any]:
    """The options of a directory as `trtllm-build` leaves it."""
    settings = {
        "pretrained_config": {"architecture": "Qwen2ForCausalLM", "vocab_size": 384},
        "build_config": {"max_seq_len": 256, "max_batch_size": 8},
    }
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "rank0.engine").write_bytes(b"engine")
    return {"model": str(directory), "tokenizer": str(tiny_model("qwen2"))}


@pytest.mark.parametrize("version", ["1.2.0", "1.3.0rc20"])
async def test_a_built_engine_answers_with_its_own_sizes(version: str, tmp_path: Path) -> None:
    use_fake_trtllm(version)
    engine = create_engine("trtllm", config(**built(tmp_path)))
    embedded = make_engine("fake")
    async with started(embedded):
        expected = await ask(embedded, request(PROMPT))
    info = await engine.start()
    answer = await ask(engine, request(PROMPT))
    replica = await replay(engine, info)

    assert answer.token_ids == expected.token_ids
    assert (info.max_seq_len, info.max_batch_size) == (256, 8)
    assert info.model_directory == str(tiny_model("qwen2"))
    assert replica.text(replica.finished[-1]) == [*PROMPT, *answer.token_ids]


def test_a_version_without_the_tensorrt_backend_says_since_when(tmp_path: Path) -> None:
    use_fake_trtllm("1.3.0rc26")
    with pytest.raises(UnusableInputError, match=r"1\.3\.0rc26 cannot run: .* in 1\.3\.0rc21"):
        create_engine("trtllm", config(**built(tmp_path)))


async def test_a_built_engine_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    use_fake_trtllm()
    engine = create_engine("trtllm", config(**built(tmp_path) | {"tokenizer": ""}))
    with pytest.raises(UnusableInputError, match="--tokenizer"):
        await engine.start()
    await engine.close()
