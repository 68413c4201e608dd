"""An engine that only encodes: the vision half of a model, for workers that have the other half.

Images are encoded one after the other in one thread; their embeddings wait under
a lease until the worker that asked has fetched them.  There is no KV cache, so
there are no cache events, and nothing is generated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from prometheus_client.core import Metric

from shepherd_events.block_hash import root_hash
from shepherd_worker.engine.embedded.transfer.service import (
    FRAME_TIMEOUT_S,
    TransferService,
    transfer_options,
)
from shepherd_worker.engine.protocol import (
    CacheEvent,
    EncodedImage,
    EngineConfig,
    EngineInfo,
    EngineStats,
    Handoff,
    PrefillResult,
)
from shepherd_worker.engine.vision import EncoderInfo, ImageEncoder, ImageProcessor
from shepherd_worker.errors import (
    EngineDeadError,
    EngineFailedError,
    InvalidRequestError,
    OverloadedError,
    StartError,
)
from shepherd_worker.image import Array, PreparedImage
from shepherd_worker.request import GenerateRequest, TokenChunk

log = logging.getLogger(__name__)


class EncoderEngine:
    """An `Engine` around an `ImageEncoder`; see the module's docstring."""

    def __init__(self, config: EngineConfig, encoder: ImageEncoder, *, name: str = "torch") -> None:
        self._config = config
        self._encoder = encoder
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shepherd-encoder")
        self._transfer: TransferService | None = None
        self._info: EncoderInfo | None = None
        self._num_calls = 0
        self._num_failed = 0
        self._draining = False
        self._closed = asyncio.Event()
        self._changed = asyncio.Event()

    async def start(self) -> EngineInfo:
        """See `Engine.start`."""
        loop = asyncio.get_running_loop()
        try:
            info = await loop.run_in_executor(self._thread, self._encoder.load)
        except StartError:
            raise
        except Exception as error:
            log.exception("the encoder did not start")
            raise EngineFailedError(f"the encoder did not start: {error!r}") from error

        def released() -> None:
            loop.call_soon_threadsafe(self._changed.set)

        options = transfer_options(self._config, timeout_s=FRAME_TIMEOUT_S)
        self._transfer = TransferService(options, released=released)
        await self._transfer.start()
        self._info = info
        return self._describe(info)

    def image_processor(self) -> ImageProcessor:
        """See `Engine.image_processor`."""
        return self._encoder.image_processor()

    async def encode(self, image: PreparedImage) -> EncodedImage:
        """The embeddings of an image, leased to whoever knows the ticket.

        Raises:
            OverloadedError: the worker is leaving.
            EngineDeadError: it has left.
        """
        info, transfer = self._serving()
        with self._call():
            loop = asyncio.get_running_loop()
            try:
                embeddings = await loop.run_in_executor(self._thread, self._encoder.encode, image)
            except Exception:
                self._num_failed += 1
                raise
            ticket = transfer.lease_bytes([memoryview(embeddings.data)], info.vision.fingerprint)
        return EncodedImage(
            digest=image.digest.hex(),
            num_tokens=image.num_tokens,
            grid=image.grid,
            dtype=embeddings.dtype,
            hidden_size=info.vision.hidden_size,
            ticket=ticket,
        )

    def generate(
        self, request: GenerateRequest, handoff: Handoff | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """Refused: see the module's docstring."""
        del handoff
        raise _no_language_model(request)

    async def prefill(self, request: GenerateRequest) -> PrefillResult:
        """Refused: see the module's docstring."""
        raise _no_language_model(request)

    async def fetch_embeddings(self, encoded: EncodedImage) -> Array | None:
        """None: what reads embeddings is not here."""
        del encoded
        return None

    async def cache_events(self, rank: int = 0) -> AsyncIterator[tuple[CacheEvent, ...]]:
        """See `Engine.cache_events`; there are none."""
        del rank
        await self._closed.wait()
        for batch in tuple[tuple[CacheEvent, ...]]():
            yield batch

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        if self._transfer is None:
            return EngineStats()
        moved = self._transfer.stats()
        return EngineStats(
            num_running=min(1, self._num_calls),
            num_waiting=max(0, self._num_calls - 1),
            requests_failed_total=self._num_failed,
            transfer_bytes_total=moved.bytes_sent_total,
            transfers_broken_off_total=moved.broken_off_total,
            leases=moved.leases,
            leases_expired_total=moved.leases_expired_total,
            images=self._encoder.image_counts(),
        )

    def metrics(self) -> tuple[Metric, ...]:
        """See `Engine.metrics`: `stats` says everything."""
        return ()

    def is_healthy(self) -> bool:
        """See `Engine.is_healthy`."""
        return not self._closed.is_set()

    async def drain(self) -> None:
        """See `Engine.drain`."""
        self._draining = True
        while self._num_calls or self.stats().leases:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed.set()
        if self._transfer is not None:
            await self._transfer.close()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1
            self._changed.set()

    def _serving(self) -> tuple[EncoderInfo, TransferService]:
        if self._closed.is_set() or self._info is None or self._transfer is None:
            raise EngineDeadError("the encoder is closed, or not started")
        if self._draining:
            raise OverloadedError(self._num_calls, 0)
        return self._info, self._transfer

    def _describe(self, info: EncoderInfo) -> EngineInfo:
        config = self._config
        return EngineInfo(
            engine=self._name,
            version=info.version,
            model_directory=info.model_directory,
            model_fingerprint=info.vision.fingerprint,
            block_size=config.block_size,
            num_blocks={},
            max_seq_len=config.max_seq_len or info.max_seq_len,
            max_batch_size=1,
            max_num_tokens=config.max_num_tokens,
            vocab_size=info.vocab_size,
            eos_token_ids=info.eos_token_ids,
            root_hash=root_hash(info.vision.fingerprint),
        )


def _no_language_model(request: GenerateRequest) -> InvalidRequestError:
    return InvalidRequestError("role", request.request_id, "images: this worker only encodes")
