"""The real TensorRT-LLM behind our engine: `pytest -m trtllm`, on a machine that has it.

The contract's promises with a real model's sizes, then the same through Dynamo's
frontend, aggregated and, with two GPUs, disaggregated.  `scripts/verify_trtllm.sh`
runs it; `SHEPHERD_TRTLLM_MODEL` names the model.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
from array import array
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cache_replica import CacheReplica
from engine_calls import ask, ask_all, request, started, until
from openai_client import Client, eventually
from shepherd_cli.doctor_machine import ThisMachine
from shepherd_cli.stack import Service, Stack
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig, EngineInfo
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.library import load_library
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.engine.trtllm.poller import SETTLE_S
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import place_images
from shepherd_worker.request import (
    FinishReason,
    GuidedDecoding,
    ProcessorCall,
    Retention,
    RetentionRange,
    Sampling,
)
from tiny_vision_models import picture

MODEL = os.environ.get("SHEPHERD_TRTLLM_MODEL", "Qwen/Qwen3-0.6B")
VISION_MODEL = os.environ.get("SHEPHERD_TRTLLM_VISION_MODEL", "")
FACTS = json.loads((Path(__file__).parents[1] / "golden" / "trtllm_api.json").read_text())
BLOCK_SIZE = 32
PROMPT = [*range(1000, 1000 + 4 * BLOCK_SIZE + 5)]
"""Four full blocks and five tokens more."""
NUM_GPUS = len((ThisMachine().run("nvidia-smi", "-L") or "").splitlines())

pytestmark = [
    pytest.mark.trtllm,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(autouse=True, scope="module")
def real_tensorrt_llm(request: pytest.FixtureRequest) -> None:
    if "trtllm" not in request.config.option.markexpr:
        pytest.skip("beside the fake there can be no real TensorRT-LLM: run `pytest -m trtllm`")
    if importlib.util.find_spec("tensorrt_llm") is None:
        pytest.skip("TensorRT-LLM is not installed")
    if not NUM_GPUS:
        pytest.skip("this machine has no NVIDIA GPU")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[tuple[Engine, EngineInfo]]:
    limits = EngineConfig(
        model=MODEL,
        block_size=BLOCK_SIZE,
        max_batch_size=16,
        max_num_tokens=4096,
        max_seq_len=4096,
        num_kv_blocks=512,
        trtllm=TrtllmOptions(guided_decoding_backend="xgrammar"),
    )
    made = create_engine("trtllm", limits)
    info = await made.start()
    yield made, info
    await made.close()


Started = tuple[Engine, EngineInfo]


async def test_the_installed_version_has_the_names_that_the_adapter_uses() -> None:
    library = load_library()
    needed = {"kv_cache_config", "enable_iter_perf_stats", "return_perf_metrics", "max_batch_size"}
    taken = {"sampling_params", "streaming", "disaggregated_params", "kv_cache_retention_config"}
    known = {*FACTS["classes"]["LLM"]["init_kwargs"], "self", "kwargs", "mpi_session"}
    print("new arguments of LLM:", sorted(library.llm_arguments - known))
    print("arguments of generate_async:", sorted(library.generate_arguments))

    assert needed <= library.llm_arguments
    assert taken <= library.generate_arguments
    for name in ("RequestError", "KvCacheRetentionConfig", "LoRARequest", "read_extra_options"):
        assert getattr(library, name) is not None
    assert not inspect.iscoroutinefunction(library.LLM.generate_async)


async def test_a_repeated_prompt_is_cached_and_answered_alike(engine: Started) -> None:
    serving, info = engine
    first = await ask(serving, request(PROMPT, 16))
    second = await ask(serving, request(PROMPT, 16))

    assert info.block_size == BLOCK_SIZE
    assert (len(first.token_ids), first.finish_reason) == (16, FinishReason.LENGTH)
    assert second.token_ids == first.token_ids
    assert second.usage is not None
    assert second.usage.cached_tokens >= 4 * BLOCK_SIZE


async def test_tenants_share_no_block(engine: Started) -> None:
    serving, _ = engine
    prompt = [token + 500 for token in PROMPT]
    await ask(serving, request(prompt, 4, cache_salt="one"))
    other = await ask(serving, request(prompt, 4, cache_salt="two"))
    again = await ask(serving, request(prompt, 4, cache_salt="one"))

    assert other.usage is not None
    assert again.usage is not None
    assert (other.usage.cached_tokens, again.usage.cached_tokens >= 4 * BLOCK_SIZE) == (0, True)


async def test_ends_are_those_of_every_engine(engine: Started) -> None:
    serving, info = engine
    whole = await ask(serving, request(PROMPT, 24))
    stop = whole.token_ids[9]
    first = whole.token_ids.index(stop)
    stopped = await ask(serving, request(PROMPT, 24, stops={"stop_token_ids": frozenset({stop})}))
    ended = await ask(
        serving, request(PROMPT, 24, ignore_eos=False, stops={"eos_token_ids": frozenset({stop})})
    )
    late = await ask(
        serving,
        request(PROMPT, 24, stops={"stop_token_ids": frozenset({stop}), "min_tokens": first + 2}),
    )

    assert (stopped.finish_reason, stopped.stop_reason) == (FinishReason.STOP, stop)
    assert stopped.token_ids == whole.token_ids[: first + 1]
    assert ended.finish_reason is FinishReason.EOS
    assert len(late.token_ids) > first + 1
    assert info.eos_token_ids


async def test_sampling_logprobs_retention_and_schemas_work(engine: Started) -> None:
    serving, _ = engine
    sampled = Sampling(temperature=1.0, seed=7)
    twice = await ask_all(serving, [request(PROMPT, 16, sampling=sampled)] * 2)
    logged = await ask(serving, request(PROMPT, 4, logprobs=3))
    pinned = Retention(ranges=(RetentionRange(start=0, stop=BLOCK_SIZE, priority=100),))
    kept = await ask(serving, request(PROMPT, 4, retention=pinned))
    guided = GuidedDecoding("choice", '["yes", "no"]')
    chosen = await ask(serving, request(PROMPT, 8, guided=guided, ignore_eos=False))

    assert twice[0].token_ids == twice[1].token_ids
    assert [entry.token_id for entry in logged.logprobs] == logged.token_ids
    assert all(len(entry.top) == 3 for entry in logged.logprobs)
    assert len(kept.token_ids) == 4
    assert len(chosen.token_ids) <= 8


class Favour:
    """A logits processor that makes one token the likeliest."""

    def __init__(self, token_id: int) -> None:
        self._token_id = token_id

    def __call__(self, input_ids: Sequence[int], logits: Any) -> None:
        logits[self._token_id] += 1e4


async def test_a_processor_decides_every_token_of_its_request_alone() -> None:
    limits = EngineConfig(
        model=MODEL, block_size=BLOCK_SIZE, max_batch_size=4, max_num_tokens=1024,
        max_seq_len=512, num_kv_blocks=64, logits_processors=(f"favour={__name__}:Favour",),
    )  # fmt: skip
    serving = create_engine("trtllm", limits)
    async with started(serving):
        call = ProcessorCall("favour", {"token_id": 1234})
        plain, steered = await ask_all(
            serving, [request(PROMPT, 6), request(PROMPT, 6, logits_processors=(call,))]
        )

    assert steered.token_ids == [1234] * 6
    assert plain.token_ids != steered.token_ids


@pytest.mark.skipif(NUM_GPUS < 2, reason="attention data parallelism needs two GPUs")
async def test_ranks_keep_caches_of_their_own_and_requests_go_where_they_are_sent() -> None:
    limits = EngineConfig(
        model=MODEL, block_size=BLOCK_SIZE, max_batch_size=4, max_num_tokens=1024,
        max_seq_len=512, num_kv_blocks=64, tensor_parallel_size=2,
        trtllm=TrtllmOptions(enable_attention_dp=True),
    )  # fmt: skip
    serving = create_engine("trtllm", limits)
    async with started(serving) as info:
        answers = [
            await ask(serving, request(PROMPT, 4, dp_rank=rank, request_id=f"{rank}-{turn}"))
            for turn, rank in enumerate((0, 1, 0, 1))
        ]
        await asyncio.sleep(2 * SETTLE_S)
    ends: dict[int, set[str]] = {}
    for rank in range(info.num_ranks):
        replica = CacheReplica(info.root_hash, info.block_size)
        async for batch in serving.cache_events(rank):
            replica.apply(batch)
        ends[rank] = {each.origin.request_id for each in replica.finished if each.origin}

    assert info.num_ranks == 2
    cached = [answer.usage.cached_tokens for answer in answers if answer.usage]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) >= 4 * BLOCK_SIZE
    assert ends == {0: {"0-0", "0-2"}, 1: {"1-1", "1-3"}}


@pytest.mark.skipif(not VISION_MODEL, reason="SHEPHERD_TRTLLM_VISION_MODEL names no model")
async def test_images_are_as_long_as_we_say_and_decide_the_answer() -> None:
    limits = EngineConfig(
        model=VISION_MODEL, block_size=BLOCK_SIZE, max_batch_size=4, max_num_tokens=8192,
        max_seq_len=8192, num_kv_blocks=1024,
    )  # fmt: skip
    serving = create_engine("trtllm", limits)
    async with started(serving):
        processor = serving.image_processor()
        assert processor is not None
        calls = []
        for seed in (1, 2):
            image = processor.process(picture(seed, 224, 224))
            token = processor.image_token_id
            prompt = array("I", [*PROMPT[:40], token, *PROMPT[40:60]])
            token_ids, placed = place_images(prompt, [image], token)
            calls.append(request(token_ids, 8, images=placed))
        first, other = await ask_all(serving, calls)
        again = await ask(serving, calls[0])
        assert isinstance(serving, TrtllmEngine)
        assert serving._started is not None
        result = await serving._started.submissions.submit(calls[0], streaming=False)(None)

    assert len(result.prompt_token_ids) == len(calls[0].token_ids)
    assert first.token_ids != other.token_ids
    assert again.token_ids == first.token_ids
    (unmapped,) = [m for m in serving.metrics() if m.name == "shepherd_trtllm_blocks_unmapped"]
    assert unmapped.samples[0].value == 0


async def test_requests_that_are_given_up_leave_nothing_behind(engine: Started) -> None:
    serving, _ = engine

    async def give_up(number: int) -> None:
        stream = serving.generate(request([number, *PROMPT], 1000))
        await anext(stream)
        await stream.aclose()

    await asyncio.gather(*(give_up(number) for number in range(32)))
    await until(lambda: serving.stats().num_running == 0)

    assert len((await ask(serving, request(PROMPT, 4))).token_ids) == 4
    assert serving.stats().requests_failed_total == 0
    with pytest.raises(InvalidRequestError, match="prompt=5000"):
        await ask(serving, request([1] * 5000, 4))


async def test_the_events_tell_what_the_cache_holds_and_every_text() -> None:
    """Fewer blocks than the prompts fill: some are evicted."""
    limits = EngineConfig(
        model=MODEL, block_size=BLOCK_SIZE, max_batch_size=4, max_num_tokens=1024,
        max_seq_len=512, num_kv_blocks=48,
    )  # fmt: skip
    serving = create_engine("trtllm", limits)
    info = await serving.start()
    calls = [request([100 + n, *PROMPT], 20, request_id=str(n)) for n in range(24)]
    answers = await ask_all(serving, calls)
    await until(lambda: serving.stats().blocks_evicted_total > 0)
    await serving.close()
    replica = CacheReplica(info.root_hash, info.block_size)
    async for batch in serving.cache_events():
        replica.apply(batch)
    told = {each.origin.request_id: replica.text(each) for each in replica.finished if each.origin}
    losses = [m for m in serving.metrics() if m.name == "shepherd_trtllm_event_losses"]

    assert len(told) == 24
    for call, answer in zip(calls, answers, strict=True):
        assert told[call.request_id] == [*call.token_ids, *answer.token_ids]
    assert replica.removed
    assert losses[0].samples[0].value == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def worker_args(name: str, *more: str) -> tuple[str, ...]:
    common = ("--engine", "trtllm", "--model", MODEL, "--served-model-name", name)
    return (*common, "--max-seq-len", "4096", "--kv-cache-free-gpu-mem-fraction", "0.3", *more)


def on_gpu(number: int) -> dict[str, Any]:
    return {"CUDA_VISIBLE_DEVICES": str(number), "HF_HUB_OFFLINE": "0"}


async def ready(stack: Stack, worker: Service) -> None:
    """A model of this size takes its time to load, and longer to be downloaded."""
    await eventually(lambda: stack.answers(worker.url + "/health"), timeout_s=600)


async def test_dynamos_frontend_is_answered(stack: Stack) -> None:
    frontend = await stack.frontend()
    worker = await stack.worker("whole", *worker_args("whole"), wait=False, env=on_gpu(0))
    await ready(stack, worker)
    await stack.model_served(frontend, "whole")
    client = Client(stack, frontend, "whole")
    prompt = "The shepherd counts the sheep of the flock. " * 40
    first = await client.complete(prompt, max_tokens=32)
    second = await client.complete(prompt, max_tokens=32)

    assert first["choices"] == second["choices"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.skipif(NUM_GPUS < 2, reason="prefill and decode need a GPU each")
async def test_disaggregated_text_equals_the_aggregated_one(stack: Stack) -> None:
    frontend = await stack.frontend()
    parts = []
    for role, number in (("prefill", 0), ("decode", 1)):
        args = worker_args("split", "--role", role, "--component", f"split-{role}")
        parts.append(await stack.worker(role, *args, wait=False, env=on_gpu(number)))
    for part in parts:
        await ready(stack, part)
    await stack.model_served(frontend, "split")
    split, whole = Client(stack, frontend, "split"), Client(stack, frontend, "whole")
    for number in range(4):
        prompt = f"Question {number}: " + "what do the sheep eat? " * 30
        theirs = await whole.complete(prompt, max_tokens=48)
        ours = await split.complete(prompt, max_tokens=48)
        assert ours["choices"][0]["text"] == theirs["choices"][0]["text"]

    async def nothing_waits() -> bool:
        async with stack.http.get(parts[0].url + "/metrics") as response:
            return "shepherd_worker_kv_leases 0.0" in await response.text()

    await eventually(nothing_waits, timeout_s=30, what="the fetched prompts' leases to end")
