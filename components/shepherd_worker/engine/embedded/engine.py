"""The event loop's side of an engine: the `Engine` protocol over one engine thread.

Knows requests, streams, handoffs and the life of the engine; knows nothing of
tensors or scheduling.  Everything here runs on the event loop and never blocks
it.  A sequence's stream is in `_streams` from its submission until the thread
has said that the sequence ended, cancelled or not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from random import Random

from prometheus_client.core import Metric

from shepherd_events.block_hash import root_hash, salt_id
from shepherd_events.events import CacheContext
from shepherd_worker.engine.connector import create_connector
from shepherd_worker.engine.connector.protocol import KvStore
from shepherd_worker.engine.embedded.core import EngineCore, StepOutput
from shepherd_worker.engine.embedded.engine_thread import EngineThread
from shepherd_worker.engine.embedded.imports import PromptImports
from shepherd_worker.engine.embedded.loading import Loaded, load_engine
from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.runner import Runner
from shepherd_worker.engine.embedded.sampling.speculative import NgramConfig, NgramDrafter
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.embedded.transfer.blocks import BlockSource
from shepherd_worker.engine.embedded.transfer.service import (
    FRAME_TIMEOUT_S,
    TransferOptions,
    TransferService,
    transfer_options,
)
from shepherd_worker.engine.embeddings import fetch_embeddings
from shepherd_worker.engine.protocol import (
    CacheEvent,
    EncodedImage,
    EngineConfig,
    EngineInfo,
    EngineStats,
    Handoff,
    PrefillResult,
)
from shepherd_worker.engine.telemetry import EngineTelemetry, Waits
from shepherd_worker.engine.validation import check_request, clip_max_tokens
from shepherd_worker.engine.vision import ImageProcessor
from shepherd_worker.errors import (
    EngineDeadError,
    EngineFailedError,
    OverloadedError,
    StartError,
    WorkerError,
)
from shepherd_worker.image import Array
from shepherd_worker.request import GenerateRequest, TokenChunk, joined

log = logging.getLogger(__name__)


class EmbeddedEngine:
    """An `Engine` around a `Runner`; see `protocol.py` for what it promises.

    Cache events are kept until their reader takes them, however long that is.
    """

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        *,
        name: str = "torch",
        clock_ns: Callable[[], int] = time.time_ns,
        transfer_timeout_s: float = FRAME_TIMEOUT_S,
        store: KvStore | None = None,
        telemetry: EngineTelemetry | None = None,
    ) -> None:
        """Check what can be checked without loading the model.

        `transfer_timeout_s` is how long a prefill worker may be silent while it is
        fetched from; `store` takes the place of what `config.kv_connector` names.

        Raises:
            UnusableInputError: the KV store's location cannot be used.
        """
        self._config = config
        self._connector = create_connector(config, store)
        self._runner = runner
        self._name = name
        self._clock_ns = clock_ns
        self._transfer_timeout_s = transfer_timeout_s
        self._telemetry = telemetry or EngineTelemetry()
        self._cancelled: Waits[Sequence] = Waits(self._telemetry.cancelling, self._telemetry.clock)
        self._streams: dict[Sequence, asyncio.Queue[TokenChunk | WorkerError]] = {}
        self._events: asyncio.Queue[tuple[CacheEvent, ...] | EngineDeadError | None]
        self._events = asyncio.Queue()
        self._changed = asyncio.Event()
        self._closing = asyncio.Lock()
        self._num_calls = 0
        self._draining = False
        self._closed = False
        self._dead: EngineDeadError | None = None
        self._started: asyncio.Future[Loaded] | None = None
        self._thread: EngineThread | None = None
        self._loaded: Loaded | None = None
        self._transfer: TransferService | None = None
        self._imports: PromptImports | None = None

    async def start(self) -> EngineInfo:
        """See `Engine.start`."""
        options = transfer_options(self._config, timeout_s=self._transfer_timeout_s)
        self._started = asyncio.get_running_loop().create_future()
        self._thread = EngineThread(
            partial(
                load_engine,
                self._runner,
                self._config,
                self._name,
                self._connector,
                self._telemetry,
            ),
            ready=self._on_ready,
            deliver=self._on_output,
            died=self._on_death,
        )
        loop = asyncio.get_running_loop()
        self._runner.watch(lambda error: _post(loop, self._on_death, error))
        self._thread.start()
        loaded = await self._started
        async with self._closing:
            if self._dead is not None:
                raise self._dead
            transfer = await self._open_transfer(options, loaded.storage)
            self._imports = PromptImports(loaded, transfer, self._connector, self._telemetry)
            self._loaded = loaded
        return loaded.info

    def image_processor(self) -> ImageProcessor | None:
        """See `Engine.image_processor`."""
        return self._runner.image_processor()

    async def generate(
        self, request: GenerateRequest, handoff: Handoff | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """See `Engine.generate`."""
        with self._call():
            sequence = self._accept(request, prefill_only=False)
            async with self._ready(sequence, handoff), aclosing(self._run(sequence)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def prefill(self, request: GenerateRequest) -> PrefillResult:
        """See `Engine.prefill`.

        The chunk has a `finish_reason` only where the answer is complete with it.
        """
        with self._call():
            sequence = self._accept(request, prefill_only=True)
            release = partial(self._post, partial(EngineCore.cancel, sequence=sequence))
            try:
                async with self._ready(sequence, None), aclosing(self._run(sequence)) as chunks:
                    chunk = await anext(chunks)
                return PrefillResult(chunk, self._lease(sequence, release))
            except BaseException:
                release()
                raise

    async def fetch_embeddings(self, encoded: EncodedImage) -> Array | None:
        """See `Engine.fetch_embeddings`."""
        loaded = self._serving()
        assert self._transfer is not None
        return await fetch_embeddings(self._transfer, encoded, loaded.limits)

    async def cache_events(self, rank: int = 0) -> AsyncIterator[tuple[CacheEvent, ...]]:
        """See `Engine.cache_events`; there is one rank."""
        del rank
        while isinstance(batch := await self._events.get(), tuple):
            yield batch
        self._events.put_nowait(batch)
        if batch is not None:
            raise batch

    def stats(self) -> EngineStats:
        """See `Engine.stats`; bytes count both directions."""
        if self._thread is None or self._transfer is None:
            return EngineStats()
        moved = self._transfer.stats()
        return replace(
            self._thread.stats,
            transfer_bytes_total=moved.bytes_sent_total + moved.bytes_received_total,
            transfers_total=moved.fetched_total,
            transfer_faults_total=moved.faults_total,
            transfer_failures_total=moved.failures_total,
            transfers_broken_off_total=moved.broken_off_total,
            kv_store=None if self._connector is None else self._connector.stats(),
            leases=moved.leases,
            leases_expired_total=moved.leases_expired_total,
        )

    def metrics(self) -> Iterable[Metric]:
        """See `Engine.metrics`."""
        return self._telemetry.metrics()

    def is_healthy(self) -> bool:
        """See `Engine.is_healthy`."""
        return self._dead is None

    async def drain(self) -> None:
        """See `Engine.drain`."""
        self._draining = True
        while self._num_calls or self._streams or self.stats().leases:
            self._changed.clear()
            await self._changed.wait()
        if self._connector is not None:
            await self._connector.flush()

    async def close(self) -> None:
        """See `Engine.close`."""
        async with self._closing:
            if self._closed:
                return
            self._die(EngineDeadError("the engine is closed"))
            if self._transfer is not None:
                await self._transfer.close()
            if self._thread is not None:
                self._thread.stop()
                await self._thread.join()
            await asyncio.to_thread(self._runner.close)
            if self._connector is not None:
                await self._connector.close()
            self._events.put_nowait(None)
            self._closed = True
            self._changed.set()

    async def _open_transfer(
        self, options: TransferOptions, storage: SharedMemory | None
    ) -> TransferService:
        loop = asyncio.get_running_loop()

        def released() -> None:
            loop.call_soon_threadsafe(self._changed.set)

        self._transfer = transfer = TransferService(options, released=released)
        await transfer.start(storage)
        return transfer

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call that `drain` waits for."""
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1
            self._changed.set()

    def _accept(self, request: GenerateRequest, *, prefill_only: bool) -> Sequence:
        loaded = self._serving()
        if self._draining:
            raise OverloadedError(self.stats().num_waiting, 0)
        check_request(request, loaded.limits)
        return Sequence(
            request=request,
            root=root_hash(
                loaded.info.model_fingerprint,
                lora_name=request.lora_name,
                cache_salt=request.cache_salt,
            ),
            context=CacheContext(request.lora_name, salt_id(request.cache_salt)),
            eos_token_ids=request.stops.eos_token_ids or loaded.info.eos_token_ids,
            max_tokens=clip_max_tokens(request, loaded.info.max_seq_len),
            started_unix_ns=self._clock_ns(),
            random=Random(request.sampling.seed),  # noqa: S311 - tokens, not secrets
            prefill_only=prefill_only,
            drafter=None if prefill_only else self._drafter(),
        )

    @asynccontextmanager
    async def _ready(self, sequence: Sequence, handoff: Handoff | None) -> AsyncIterator[None]:
        """All that a sequence needs before it is submitted."""
        imports = self._imports
        assert imports is not None
        async with self._serving().preparation.of(sequence), imports.of(sequence, handoff):
            yield

    def _drafter(self) -> NgramDrafter | None:
        config = self._config
        if config.speculative == "none":
            return None
        return NgramDrafter(NgramConfig(config.speculative_window, config.speculative_max_draft))

    async def _run(self, sequence: Sequence) -> AsyncGenerator[TokenChunk, None]:
        """Submit a sequence and pass on what it brings forth; closing cancels it."""
        self._serving()
        assert self._imports is not None
        stream = self._streams[sequence] = asyncio.Queue()
        self._post(partial(EngineCore.add, sequence=sequence))
        try:
            usage = None
            while usage is None:
                chunk = joined(await _available(stream))
                usage = chunk.usage
                self._imports.used(sequence)
                yield chunk
        finally:
            if sequence in self._streams:
                self._cancelled.begin(sequence)
                self._post(partial(EngineCore.cancel, sequence=sequence))

    def _lease(self, sequence: Sequence, release: Callable[[], None]) -> Handoff:
        loaded = self._serving()
        if not sequence.block_ids:
            return Handoff(engine=self._name, ticket=None)
        source = BlockSource(
            loaded.info.model_fingerprint,
            loaded.block_bytes,
            tuple(sequence.block_ids),
            loaded.storage,
            self._runner.read_blocks,
        )
        assert self._transfer is not None
        return Handoff(engine=self._name, ticket=self._transfer.lease(source, release))

    def _serving(self) -> Loaded:
        if self._dead is not None:
            raise self._dead
        if self._loaded is None:
            raise EngineDeadError("the engine is not started")
        return self._loaded

    def _post(self, command: Callable[[EngineCore], None]) -> None:
        assert self._thread is not None
        self._thread.post(command)

    def _on_ready(self, loaded: Loaded) -> None:
        assert self._started is not None
        if not self._started.done():
            self._started.set_result(loaded)

    def _on_output(self, output: StepOutput) -> None:
        if output.events:
            self._events.put_nowait(output.events)
        for item in output.outputs:
            stream = self._streams[item.sequence]
            stream.put_nowait(item.result)
            if item.last:
                del self._streams[item.sequence]
                self._cancelled.end(item.sequence)
                self._changed.set()

    def _on_death(self, error: BaseException) -> None:
        """The thread ended by itself: while it started, or while it served."""
        assert self._started is not None
        if not self._started.done():
            if not isinstance(error, StartError):
                log.error("the engine did not start", exc_info=error)
                error = EngineFailedError(f"the engine did not start: {error!r}")
            self._started.set_exception(error)
            return
        log.critical("the engine died", exc_info=error)
        dead = EngineDeadError(f"the engine died: {error!r}")
        self._die(dead)
        self._streams.clear()
        self._events.put_nowait(dead)
        self._changed.set()

    def _die(self, dead: EngineDeadError) -> None:
        """Tell every running and every later call."""
        self._dead = self._dead or dead
        for stream in self._streams.values():
            stream.put_nowait(self._dead)


def _post(
    loop: asyncio.AbstractEventLoop, callback: Callable[[BaseException], None], error: BaseException
) -> None:
    """Call back on the event loop, from any thread, unless it has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, error)


async def _available(stream: asyncio.Queue[TokenChunk | WorkerError]) -> list[TokenChunk]:
    """Everything that a sequence brought forth since it was last asked; an error goes before all."""
    results = [await stream.get()]
    while not stream.empty():
        results.append(stream.get_nowait())
    chunks: list[TokenChunk] = []
    for result in results:
        if isinstance(result, WorkerError):
            raise result
        chunks.append(result)
    return chunks
