"""The `Engine` protocol over TensorRT-LLM's `LLM`.

Knows the life of the engine and the limits of its calls; what they consist of
is in the other files of this package.  Everything here runs on the event loop;
what may block runs in daemon threads, so that nothing keeps the process from
ending.

Only `RequestError` concerns a single request.  Every other error from
TensorRT-LLM means that the engine is gone, and every request with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from prometheus_client.core import Metric

from shepherd_worker.engine.embedded.stop_strings import load_tokenizer
from shepherd_worker.engine.embedded.transfer.service import (
    FRAME_TIMEOUT_S,
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
from shepherd_worker.engine.trtllm.blocking import in_daemon
from shepherd_worker.engine.trtllm.call import Call
from shepherd_worker.engine.trtllm.construction import engine_arguments
from shepherd_worker.engine.trtllm.handoff import (
    PROMPT,
    HandoffError,
    RequestIds,
    both_phases,
    context_only,
    from_wire,
    to_wire,
)
from shepherd_worker.engine.trtllm.images import TrtllmImageProcessor, load_processor
from shepherd_worker.engine.trtllm.leases import Leases
from shepherd_worker.engine.trtllm.library import Library
from shepherd_worker.engine.trtllm.metrics import own_metrics
from shepherd_worker.engine.trtllm.model import ModelFiles, engine_info, read_model
from shepherd_worker.engine.trtllm.poller import Poller
from shepherd_worker.engine.trtllm.ranks import Ledgers
from shepherd_worker.engine.trtllm.shutdown import Shutdown
from shepherd_worker.engine.trtllm.started import Started, first_token
from shepherd_worker.engine.trtllm.stats import NativeMetrics, Totals, engine_stats
from shepherd_worker.engine.trtllm.submission import Submissions
from shepherd_worker.engine.vision import ImageProcessor
from shepherd_worker.errors import (
    EngineDeadError,
    EngineFailedError,
    OverloadedError,
)
from shepherd_worker.image import Array
from shepherd_worker.request import FinishReason, GenerateRequest, TokenChunk

log = logging.getLogger(__name__)

NAME = "trtllm"
POLLER_TIMEOUT_S = 5.0
"""How long the last events may take to be read."""


class TrtllmEngine:
    """An `Engine` around TensorRT-LLM; see `protocol.py` for what it promises."""

    def __init__(
        self,
        config: EngineConfig,
        library: Library,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        warm_up: bool = True,
        shutdown: Shutdown | None = None,
    ) -> None:
        """`warm_up` lets the start end with a first token; `shutdown` is how long the end may take.

        Raises:
            UnusableInputError: an option's file or object cannot be read.
        """
        self._config = config
        self._library = library
        self._clock_ns = clock_ns
        self._shutdown = shutdown or Shutdown()
        self._warm_up = warm_up
        self._arguments = engine_arguments(config, library)
        self._ids = RequestIds(library)
        self._totals = Totals()
        self._events: defaultdict[
            int, asyncio.Queue[tuple[CacheEvent, ...] | EngineDeadError | None]
        ]
        self._events = defaultdict(asyncio.Queue)
        """By attention rank."""
        self._calls: set[Call] = set()
        self._changed = asyncio.Event()
        self._leases = Leases(config.transfer_lease_s, self._changed.set)
        self._closing = asyncio.Lock()
        self._draining = False
        self._closed = False
        self._dead: EngineDeadError | None = None
        self._loading: asyncio.Future[Any] | None = None
        self._given_up: asyncio.Event = asyncio.Event()
        self._started: Started | None = None
        self._transfer: TransferService | None = None

    async def start(self) -> EngineInfo:
        """See `Engine.start`."""
        model = await asyncio.to_thread(read_model, self._config)
        self._raise_if_dead()
        self._loading = in_daemon(partial(self._library.LLM, **self._arguments), "trtllm-load")
        giving_up = asyncio.ensure_future(self._given_up.wait())
        await asyncio.wait((self._loading, giving_up), return_when=asyncio.FIRST_COMPLETED)
        giving_up.cancel()
        self._raise_if_dead()
        try:
            llm = self._loading.result()
        except Exception as error:
            log.exception("TensorRT-LLM did not start")
            raise EngineFailedError(f"TensorRT-LLM did not start: {error}") from error
        model, images = await self._open_images(llm, model)
        self._started = await self._ready(self._assemble(llm, model, images))
        return self._started.info

    def image_processor(self) -> ImageProcessor | None:
        """See `Engine.image_processor`."""
        return None if self._started is None else self._started.images

    async def generate(
        self, request: GenerateRequest, handoff: Handoff | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """See `Engine.generate`."""
        started = self._admit(request)
        received = None if handoff is None else self._received(started.info, handoff)
        prefilled = None if handoff is None else handoff.own.get(PROMPT)
        submissions = started.submissions.submit(request, streaming=True, prefilled=prefilled)
        submit = partial(self._submit, submissions)
        with self._call(started, request, submit, received) as call:
            usage = None
            while usage is None:
                chunk = await call.next()
                usage = chunk.usage
                yield chunk

    async def prefill(self, request: GenerateRequest) -> PrefillResult:
        """See `Engine.prefill`.

        The chunk has a `finish_reason` only where the answer is complete with it.
        """
        started = self._admit(request)
        asked = context_only(self._library, self._ids.next())
        submit = started.submissions.submit(request, streaming=False)
        with self._call(started, request, lambda _: submit(asked), None) as call:
            chunk = await call.next()
            fingerprint = started.info.model_fingerprint
            own = to_wire(call.result, fingerprint, has_images=bool(request.images))
        if chunk.finish_reason is not FinishReason.ERROR:
            self._leases.lease()
        return PrefillResult(
            replace(chunk, usage=call.answer.usage()), Handoff(engine=NAME, ticket=None, own=own)
        )

    async def fetch_embeddings(self, encoded: EncodedImage) -> Array | None:
        """See `Engine.fetch_embeddings`."""
        started = self._started
        if started is None or self._transfer is None:
            return None
        return await fetch_embeddings(self._transfer, encoded, started.submissions.limits)

    async def cache_events(self, rank: int = 0) -> AsyncIterator[tuple[CacheEvent, ...]]:
        """See `Engine.cache_events`."""
        events = self._events[rank]
        while isinstance(batch := await events.get(), tuple):
            yield batch
        events.put_nowait(batch)
        if batch is not None:
            raise batch

    def stats(self) -> EngineStats:
        """See `Engine.stats`; what runs is counted here, what it occupies by TensorRT-LLM."""
        started = self._started
        if started is None:
            return EngineStats()
        return engine_stats(
            self._totals,
            load=started.poller.stats.load(),
            ledgers=started.ledgers,
            info=started.info,
            num_calls=0 if self._dead else len(self._calls),
            leases=self._leases,
        )

    def metrics(self) -> list[Metric]:
        """See `Engine.metrics`."""
        started = self._started
        return [] if started is None else own_metrics(started.ledgers.counts, started.poller)

    def is_healthy(self) -> bool:
        """See `Engine.is_healthy`."""
        return self._dead is None

    async def drain(self) -> None:
        """See `Engine.drain`."""
        self._draining = True
        while self._calls or self._leases:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """See `Engine.close`; returns in bounded time, whatever TensorRT-LLM does."""
        async with self._closing:
            if self._closed:
                return
            self._die(EngineDeadError("the engine is closed"))
            self._given_up.set()
            await asyncio.gather(*(call.ended() for call in tuple(self._calls)))
            if self._started is not None:
                await self._started.poller.stop(POLLER_TIMEOUT_S)
            await asyncio.sleep(0)  # the poller's last events are on their way
            if self._transfer is not None:
                await self._transfer.close()
            if self._loading is not None:
                await self._shutdown.end(self._loading)
            self._end_events(None)
            self._closed = True
            self._changed.set()

    def progressed(self, call: Call, num_tokens: int, num_cached: int) -> None:
        """See `Observer`."""
        if num_tokens and len(call.answer.token_ids) == num_tokens:
            self._totals.prompt_tokens += call.track.num_prompt
            if call.received is not None:
                missing = call.track.num_prompt - call.answer.cached_tokens
                self._totals.transferred_tokens += missing
        self._totals.generated_tokens += num_tokens
        self._totals.cached_tokens += num_cached

    def transfer_failed(self, call: Call) -> None:
        """See `Observer`."""
        del call
        self._totals.transfer_failures += 1

    def ended(self, call: Call) -> None:
        """See `Observer`."""
        self._calls.discard(call)
        self._totals.failed += call.answer.finish_reason is FinishReason.ERROR
        if self._started is not None and call.result is not None and self._dead is None:
            self._started.metrics.request(call.result.metrics_dict)
        self._changed.set()

    def broke(self, error: BaseException) -> None:
        """See `Observer`; also called by the poller."""
        if self._dead is not None:
            return
        log.critical("TensorRT-LLM failed", exc_info=error)
        dead = EngineDeadError(f"TensorRT-LLM failed: {error!r}")
        self._die(dead)
        self._end_events(dead)
        self._changed.set()

    async def _open_images(
        self, llm: Any, model: ModelFiles
    ) -> tuple[ModelFiles, TrtllmImageProcessor | None]:
        """What prepares images; where it does not work, the model is taken for one of text."""
        if model.vision is None:
            return model, None
        try:
            images = await asyncio.to_thread(load_processor, self._library, model, llm.tokenizer)
        except EngineFailedError as error:
            log.warning("images will be refused: %s", error)
            return replace(model, vision=None), None
        await self._open_transfer()
        return model, images

    async def _open_transfer(self) -> None:
        """What fetches embeddings; nothing is fetched from here."""
        options = transfer_options(self._config, timeout_s=FRAME_TIMEOUT_S)
        self._transfer = TransferService(options, released=lambda: None)
        await self._transfer.start()

    def _assemble(
        self, llm: Any, model: ModelFiles, images: TrtllmImageProcessor | None
    ) -> Started:
        info = engine_info(NAME, llm, self._library.version, model, self._config)
        tokenizer = None if model.tokenizer_file is None else load_tokenizer(model.tokenizer_file)
        ledgers = Ledgers(info.block_size, info.model_fingerprint, info.num_ranks)
        metrics = NativeMetrics(self._library.MetricsCollector, self._config.model)
        poller = Poller(
            llm,
            ledgers,
            num_ranks=info.num_ranks,
            vocab_size=info.vocab_size,
            deliver=lambda rank, events: self._events[rank].put_nowait(events),
            died=self.broke,
            measured=self._measured,
            metrics=metrics,
        )
        submissions = Submissions(llm, self._library, self._config, info, tokenizer, model.vision)
        return Started(llm, info, submissions, poller, ledgers, metrics, images)

    async def _ready(self, started: Started) -> Started:
        """Begin to poll, and be warm; a start that is given up leaves no thread behind."""
        started.poller.start()
        try:
            if self._warm_up:
                started = await first_token(started)
            self._raise_if_dead()
        except BaseException as error:
            await started.poller.stop(POLLER_TIMEOUT_S)
            if isinstance(error, EngineFailedError) and self._dead is not None:
                raise self._dead from error
            raise
        return started

    def _admit(self, request: GenerateRequest) -> Started:
        """What serves a request, unless it must be refused."""
        started, config = self._started, self._config
        self._raise_if_dead()
        if started is None:
            raise EngineDeadError("the engine is not started")
        num_waiting = max(0, len(self._calls) - started.info.max_batch_size)
        if self._draining:
            raise OverloadedError(num_waiting, 0)
        started.submissions.check(request)
        if num_waiting >= config.max_waiting:
            self._totals.refused += 1
            raise OverloadedError(num_waiting, config.max_waiting)
        return started

    @contextmanager
    def _call(
        self,
        started: Started,
        request: GenerateRequest,
        submit: Callable[[Any], Any],
        received: Any,
    ) -> Iterator[Call]:
        """A request under way; leaving the block ends it."""
        call = Call(
            submit,
            started.submissions.answer(request),
            started.submissions.track(request, self._clock_ns()),
            started.poller,
            received=received,
            request_error=self._library.RequestError,
            observer=self,
        )
        self._calls.add(call)
        try:
            yield call
        finally:
            call.close()

    def _submit(self, submit: Callable[[Any], Any], received: Any) -> Any:
        """With a handoff, or both phases here; without disaggregation there are no phases."""
        if received is None and self._config.disaggregated:
            received = both_phases(self._library)
        return submit(received)

    def _received(self, info: EngineInfo, handoff: Handoff) -> Any:
        """TensorRT-LLM's parameters in a handoff; None where the prompt is better computed."""
        try:
            return from_wire(self._library, handoff.own, info.model_fingerprint)
        except HandoffError as error:
            sender = handoff.engine
            log.warning("a prompt is computed here: a handoff of %s is no use: %s", sender, error)
            self._totals.transfer_failures += 1
            return None

    def _measured(self, num_used: int) -> None:
        self._leases.used(num_used, len(self._calls))

    def _end_events(self, last: EngineDeadError | None) -> None:
        """Let the readers of every rank's events end."""
        for rank in range(1 if self._started is None else self._started.info.num_ranks):
            self._events[rank].put_nowait(last)

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise self._dead

    def _die(self, dead: EngineDeadError) -> None:
        """Tell every running and every later call."""
        self._dead = self._dead or dead
        for call in tuple(self._calls):
            call.abandon(self._dead)
        self._leases.clear()
