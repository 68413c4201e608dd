"""One fake engine: an embedded engine per attention rank in one thread, as TensorRT-LLM's are in processes.

The caller's side posts work and gets every result through a callback in the
backend's thread; it is the callback's business to go to another one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.runner import Runner
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.fake import FakeRunner
from shepherd_worker.engine.protocol import EngineConfig, EngineInfo, EngineStats, Handoff
from shepherd_worker.request import FinishReason, GenerateRequest, TokenChunk
from shepherd_worker.wire import parse_handoff, render_handoff
from trtllm_backend.images import COMPUTED
from trtllm_backend.kv_events import KvEvents
from trtllm_backend.requests import BRIDGE, Bridge

LEASE_POLL_S = 0.005
NEXT_RUNNERS: deque[Runner] = deque()
"""What the next engines compute with; a test's way in."""


@dataclass(frozen=True)
class Step:
    """What one response says."""

    chunk: TokenChunk
    opaque_state: bytes | None = None


class RequestFailedError(Exception):
    """A request failed; the engine goes on."""


class Backend:
    """See the module's docstring."""

    def __init__(
        self, config: EngineConfig, *, num_ranks: int, event_buffer: int, stats: bool
    ) -> None:
        """Returns when the model is loaded, as `LLM` does."""
        self.config = config
        self.num_ranks = num_ranks
        self.num_requests = 0
        self.stats_rows: deque[dict[str, Any]] = deque(maxlen=1000)
        self._stats_on = stats
        self._told_of: dict[int, EngineStats] = {}
        self.event_buffer: deque[dict[str, Any]] = deque(maxlen=event_buffer * num_ranks)
        """Gathered on the first rank."""
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._closed = False
        self.info: EngineInfo = self.wait(self._start())

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` in the backend's thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> EngineInfo:
        self.engines = [self._make_engine(rank) for rank in range(self.num_ranks)]
        infos = [await engine.start() for engine in self.engines]
        self.events = [
            KvEvents(infos[0], self.event_buffer, rank if self.num_ranks > 1 else None)
            for rank in range(self.num_ranks)
        ]
        for engine, events in zip(self.engines, self.events, strict=True):
            self._spawn(_tell_events(engine, events))
        return infos[0]

    def _make_engine(self, rank: int) -> EmbeddedEngine:
        runner = NEXT_RUNNERS.popleft() if NEXT_RUNNERS else _make_runner(self.config)
        record = partial(self._record, rank)
        counted = _CountedRunner(runner, record) if self._stats_on else runner
        return EmbeddedEngine(self.config, counted, name="fake")

    def is_healthy(self) -> bool:
        """Whether every rank is."""
        return all(engine.is_healthy() for engine in self.engines)

    def submit(
        self,
        request: GenerateRequest,
        deliver: Callable[[Step | Exception], None],
        *,
        opaque_state: bytes | None = None,
        prefill_only: bool = False,
        rank: int | None = None,
    ) -> Callable[[], None]:
        """Run a request, on the next rank in turn unless told; what is returned ends it early."""
        rank = self.num_requests % self.num_ranks if rank is None else rank
        self.num_requests += 1
        engine = self.engines[rank]
        self.events[rank].learn_salt(request.cache_salt)
        handoff = None if opaque_state is None else parse_handoff(json.loads(opaque_state))
        steps = _prefill(engine, request) if prefill_only else _generate(engine, request, handoff)
        task: asyncio.Task[None] | None = None
        aborted = False

        def begin() -> None:
            nonlocal task
            if not aborted:
                task = self._spawn(_run(steps, deliver))
                if prefill_only:
                    task.add_done_callback(lambda _: self._spawn(self.tell_leases()))

        def abort() -> None:
            nonlocal aborted
            aborted = True
            if task is None:
                deliver(Step(TokenChunk((), finish_reason=FinishReason.CANCELLED)))
            else:
                task.cancel()

        self._loop.call_soon_threadsafe(begin)
        return lambda: self._post(abort)

    def _post(self, callback: Callable[[], None]) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(callback)

    def shutdown(self) -> None:
        """End the engine and its thread; running requests fail."""
        if self._closed:
            return
        self._closed = True
        for engine in self.engines:
            self.wait(engine.close())
        self.wait(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def tell_leases(self) -> None:
        """The loop goes on while blocks are held for a transfer, and tells when they are not."""
        self._record_all()
        while any(engine.stats().leases for engine in self.engines):  # noqa: ASYNC110 - no event
            await asyncio.sleep(LEASE_POLL_S)
        self._record_all()

    def _record_all(self) -> None:
        """Iterations without a forward pass."""
        for rank in range(self.num_ranks) if self._stats_on else ():
            self._record(rank, 0, 0, 0.0)

    async def _settle(self) -> None:
        while others := [task for task in self._tasks if task is not asyncio.current_task()]:
            await asyncio.wait(others)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _record(self, rank: int, num_context: int, num_tokens: int, seconds: float) -> None:
        stats = self.engines[rank].stats()
        row = iteration_row(stats, self.info, num_context, num_tokens, seconds)
        row |= {"iter": len(self.stats_rows), "attentionDpRank": rank}
        before, self._told_of[rank] = self._told_of.get(rank, EngineStats()), stats
        if stats.drafted_tokens_total > before.drafted_tokens_total:
            row["specDecodingStats"] = _drafts(before, stats)
        self.stats_rows.append(row)


def _drafts(before: EngineStats, now: EngineStats) -> dict[str, Any]:
    """What an iteration's guesses came to."""
    return {
        "numDraftTokens": now.drafted_tokens_total - before.drafted_tokens_total,
        "numAcceptedTokens": now.accepted_tokens_total - before.accepted_tokens_total,
        "numRequestsWithDraftTokens": now.drafts_total - before.drafts_total,
    }


async def _tell_events(engine: EmbeddedEngine, events: KvEvents) -> None:
    async for batch in engine.cache_events():
        events.apply(batch)


async def _generate(
    engine: EmbeddedEngine, request: GenerateRequest, handoff: Handoff | None
) -> AsyncIterator[Step]:
    failures = engine.stats().transfer_failures_total
    async for chunk in engine.generate(request, handoff):
        if engine.stats().transfer_failures_total > failures:
            raise RequestFailedError("the KV cache of the context phase could not be received")
        yield Step(chunk)


async def _prefill(engine: EmbeddedEngine, request: GenerateRequest) -> AsyncIterator[Step]:
    result = await engine.prefill(request)
    state = json.dumps(render_handoff(result.handoff)).encode()
    if request.images:
        COMPUTED[state] = request
    yield Step(result.chunk, state)


async def _run(steps: AsyncIterator[Step], deliver: Callable[[Step | Exception], None]) -> None:
    try:
        async for step in steps:
            deliver(step)
    except asyncio.CancelledError:
        await steps.aclose()  # type: ignore[attr-defined]
        deliver(Step(TokenChunk((), finish_reason=FinishReason.CANCELLED)))
    except Exception as error:  # noqa: BLE001 - a request's edge; its reader raises it
        deliver(error)


def _make_runner(config: EngineConfig) -> Runner:
    """`FAKE_TRTLLM_RUNNER=torch` computes with the model, anything else predictably without."""
    if os.environ.get("FAKE_TRTLLM_RUNNER") != "torch":
        return FakeRunner(config)
    from shepherd_worker.engine.embedded.torch_runner import TorchRunner

    return TorchRunner(dataclasses.replace(config, device="cpu", dtype="float32"))


class _CountedRunner:
    """A runner that reports each of its forward passes."""

    def __init__(self, runner: Runner, record: Callable[[int, int, float], None]) -> None:
        self._runner = runner
        self._record = record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def forward(self, plan: StepPlan) -> Any:
        begun = time.monotonic()
        context = [work for work in plan.work if not work.sequence.num_output]
        result = self._runner.forward(plan)
        num_tokens = sum(work.num_tokens for work in context)
        self._record(len(context), num_tokens, time.monotonic() - begun)
        return result


def iteration_row(
    stats: EngineStats, info: EngineInfo, num_context: int, num_tokens: int, seconds: float
) -> dict[str, Any]:
    """An iteration's statistics under TensorRT-LLM's names."""
    total = stats.blocks_referenced + stats.blocks_cached + stats.blocks_empty
    return {
        "timestamp": "",
        "iterLatencyMS": seconds * 1000,
        "numActiveRequests": stats.num_running,
        "numQueuedRequests": stats.num_waiting,
        "kvCacheStats": {
            "maxNumBlocks": total,
            "freeNumBlocks": total - stats.blocks_referenced,
            "usedNumBlocks": stats.blocks_referenced,
            "tokensPerBlock": info.block_size,
            "allocTotalBlocks": stats.blocks_stored_total,
            "allocNewBlocks": stats.blocks_stored_total,
            "reusedBlocks": stats.prompt_tokens_cached_total // info.block_size,
            "missedBlocks": stats.blocks_stored_total,
            "cacheHitRate": 0.0,
        },
        "inflightBatchingStats": {
            "numScheduledRequests": stats.num_running,
            "numContextRequests": num_context,
            "numGenRequests": stats.num_running - num_context,
            "numPausedRequests": 0,
            "numCtxTokens": num_tokens,
            "microBatchId": 0,
            "avgNumDecodedTokensPerIter": 1.0,
        },
        "specDecodingStats": None,
    }


def engine_config(args: dict[str, Any], **given: Any) -> EngineConfig:
    """The embedded engine that stands for what `LLM` was asked for."""
    kv = args["kv_cache_config"]
    size = kv.tokens_per_block
    return EngineConfig(
        model=str(args["model"]),
        tokenizer=str(args["tokenizer"] or ""),
        block_size=size,
        num_kv_blocks=None if kv.max_tokens is None else kv.max_tokens // size,
        host_cache_size=kv.host_cache_size or 0,
        max_batch_size=args["max_batch_size"] or 2048,
        max_num_tokens=args["max_num_tokens"] or 8192,
        max_seq_len=args["max_seq_len"],
        max_waiting=1_000_000,
        logits_processors=(f"{BRIDGE}={Bridge.__module__}:{Bridge.__qualname__}",),
        **given,
    )
