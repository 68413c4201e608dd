"""Requests and answers of an engine, as tests write them."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cache_replica import CacheReplica
from shepherd_events.events import Attribution
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.runner import Runner, RunnerInfo, Samples
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.fake import FakeRunner
from shepherd_worker.engine.protocol import Engine, EngineConfig, EngineInfo, Handoff
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.library import load_library
from shepherd_worker.request import (
    FinishReason,
    GenerateRequest,
    Sampling,
    StopConditions,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from tiny_models import Kind, tiny_model
from trtllm_fake import compute_next_with, use_fake_trtllm

EngineName = Literal["fake", "torch", "trtllm"]
EMBEDDED: tuple[EngineName, ...] = ("fake", "torch")
EVERY: tuple[EngineName, ...] = (*EMBEDDED, "trtllm")
"""The last is TensorRT-LLM's adapter over the fake of TensorRT-LLM."""
GREEDY = Sampling(temperature=0.0)


def request(
    prompt: Iterable[int],
    max_tokens: int | None = 8,
    *,
    request_id: str = "r",
    sampling: Sampling = GREEDY,
    ignore_eos: bool = True,
    stops: dict[str, Any] | None = None,
    **fields: Any,
) -> GenerateRequest:
    """A greedy request that runs to its length, unless said otherwise."""
    conditions = {"max_tokens": max_tokens, "ignore_eos": ignore_eos, **(stops or {})}
    return GenerateRequest(
        request_id=request_id,
        token_ids=array("I", prompt),
        sampling=sampling,
        stops=StopConditions(**conditions),
        origin=Attribution(request_id),
        **fields,
    )


def config(kind: Kind = "qwen2", **limits: Any) -> EngineConfig:
    """A small engine of a tiny model, on the CPU in float32."""
    sizes: dict[str, Any] = {"block_size": 4, "num_kv_blocks": 256, "device": "cpu"}
    return EngineConfig(**({"model": str(tiny_model(kind)), "dtype": "float32"} | sizes | limits))


def make_runner(name: EngineName, limits: EngineConfig) -> Runner:
    """What computes in the engine of this name."""
    if name != "torch":
        return FakeRunner(limits)
    import torch

    from shepherd_worker.engine.embedded.torch_runner import TorchRunner

    torch.set_num_threads(1)
    return TorchRunner(limits)


def chosen(param: EngineName) -> EngineName:
    """The engine that a test is parametrised with, once it can be made."""
    if param == "trtllm":
        use_fake_trtllm()
    return param


def make_engine(
    name: EngineName, limits: EngineConfig | None = None, **edge: Any
) -> EmbeddedEngine:
    """The embedded engine that `create_engine(name)` makes, with what only tests vary."""
    chosen = limits or config()
    return EmbeddedEngine(chosen, make_runner(name, chosen), name=name, **edge)


def stepped(name: EngineName, limits: EngineConfig | None = None) -> tuple[Engine, SteppedRunner]:
    """An engine whose forward passes wait until the test lets them go."""
    sizes = limits or config()
    if name == "trtllm":
        runner = SteppedRunner(FakeRunner(sizes))
        compute_next_with(runner)
        return TrtllmEngine(sizes, load_library(), warm_up=False), runner
    runner = SteppedRunner(make_runner(name, sizes))
    return EmbeddedEngine(sizes, runner, name=name), runner


class SteppedRunner:
    """A runner whose forward passes wait until the test lets them go."""

    def __init__(self, runner: Runner) -> None:
        self.num_begun = 0
        self._runner = runner
        self._permits = threading.Semaphore(0)
        self.copy_blocks = runner.copy_blocks
        self.read_blocks = runner.read_blocks
        self.write_blocks = runner.write_blocks
        self.image_processor = runner.image_processor
        self.image_counts = runner.image_counts
        self.watch = runner.watch
        self.close = runner.close

    def load(self) -> RunnerInfo:
        return self._runner.load()

    def forward(self, plan: StepPlan) -> list[Samples]:
        self.num_begun += 1
        self._permits.acquire()
        return self._runner.forward(plan)

    def let_go(self, num_steps: int) -> None:
        self._permits.release(num_steps)


@dataclass(frozen=True)
class Answer:
    """All chunks of one sequence, put together."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    usage: Usage | None


async def ask(engine: Engine, call: GenerateRequest, handoff: Handoff | None = None) -> Answer:
    """Run one request to its end."""
    chunks: list[TokenChunk] = []
    async with aclosing(engine.generate(call, handoff)) as stream:
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - aclosing needs the loop

    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-1]
    return Answer(
        [token for chunk in chunks for token in chunk.token_ids],
        [logprob for chunk in chunks for logprob in chunk.logprobs],
        last.finish_reason,
        last.stop_reason,
        last.usage,
    )


async def ask_all(engine: Engine, calls: Iterable[GenerateRequest]) -> list[Answer]:
    """Run requests at once."""
    return await asyncio.gather(*(ask(engine, call) for call in calls))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that another thread brings about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - another thread sets no event of this loop
            await asyncio.sleep(0.001)


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[EngineInfo]:
    """An engine that serves within the block."""
    try:
        yield await engine.start()
    finally:
        await engine.close()


async def replay(engine: Engine, info: EngineInfo) -> CacheReplica:
    """Close an engine and learn from its events what its cache held."""
    await engine.close()
    replica = CacheReplica(info.root_hash, info.block_size)
    async for batch in engine.cache_events():
        assert batch
        replica.apply(batch)
    return replica
