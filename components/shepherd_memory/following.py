"""The consumer of the streams and what feeds it, while this process follows them.

`begin` loads what was left by whoever followed before, this process or another;
`run` goes on from there until cancelled.  In between, and on replicas that only
answer, nothing is known of the workers' caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shepherd_events.discovery import StreamDirectory
from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_events.transports.protocol import Connect
from shepherd_memory.applier import Applier
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.block_index import Holder
from shepherd_memory.clocks import Clocks
from shepherd_memory.config import MemoryConfig
from shepherd_memory.consumer import Consumer
from shepherd_memory.errors import ConflictError
from shepherd_memory.health import Applied, health_document, is_healthy
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.stream_state import StreamState
from shepherd_memory.streams import StreamReaders, Transcripts
from shepherd_memory.writer import WriterThread
from shepherd_telemetry.spans import Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What streams are read from, and what they are applied to."""

    config: MemoryConfig
    archives: Archives
    state: StreamState
    directory: StreamDirectory
    transcripts: Transcripts
    connect: Connect
    writer: WriterThread
    bell: Bell
    metrics: Metrics
    clocks: Clocks
    spans: Spans


class Following:
    """`Caches`, and the work that keeps them true; event loop only, but for what says otherwise."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._consumer: Consumer | None = None
        self._applier: Applier | None = None
        self._readers: StreamReaders | None = None
        self._store_failure = ""
        """Why the stores cannot be used while nothing is followed."""

    async def begin(self) -> None:
        """Load what was left.

        Raises:
            StoreUnavailableError: the stores cannot be used just now.
        """
        given = self._sources
        consumer = await given.writer.run(self._loaded)
        applier = Applier(
            consumer=consumer,
            writer=given.writer,
            bell=given.bell,
            metrics=given.metrics,
            clocks=given.clocks,
        )
        self._readers = StreamReaders(
            directory=given.directory,
            transcripts=given.transcripts,
            applier=applier,
            metrics=given.metrics,
            stored={each: consumer.positions.get(each) for each in consumer.known_streams},
            settle_s=given.config.settle_s,
            connect=given.connect,
            holds=consumer.holds,
            keys=given.config.tenant_keys(),
        )
        self._consumer, self._applier = consumer, applier
        given.metrics.follows_streams.set(1)

    async def run(self) -> None:
        """Read and apply until cancelled; after `begin`, once."""
        assert self._applier is not None
        assert self._readers is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._applier.run(), name="applier")
                tasks.create_task(self._readers.run(), name="streams")
        finally:
            self._consumer = self._applier = self._readers = None
            self._sources.metrics.follows_streams.set(0)

    def is_begun(self) -> bool:
        """Whether this process follows the streams."""
        return self._consumer is not None

    def tell_of_store(self, reason: str) -> None:
        """Why the stores cannot be used just now, or an empty string; while nothing is followed."""
        self._store_failure = reason
        self._sources.metrics.store_up.set(0 if reason else 1)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and the document that says why."""
        consumer, applier, readers = self._consumer, self._applier, self._readers
        if consumer is None or applier is None or readers is None:
            applied = Applied({}, {}, 0, self._store_failure)
            return is_healthy((), applied), health_document((), applied, follows=False)
        reports = readers.reports()
        applied = Applied(consumer.positions, applier.lag_s, applier.backlog, applier.store_failure)
        return is_healthy(reports, applied), health_document(reports, applied)

    def replay_dead_letter(self, tenant: str, name: str) -> bool:
        """See `Consumer.replay_dead_letter`; writer thread.

        Raises:
            ConflictError: another replica follows the streams.
        """
        if self._consumer is None:
            raise ConflictError("name", "another replica follows the streams: ask that one")
        return self._consumer.replay_dead_letter(tenant, name)

    @property
    def positions(self) -> Mapping[StreamId, Position]:
        """See `Caches.positions`."""
        return self._consumer.positions if self._consumer is not None else {}

    def holders(self, block_hash: int) -> frozenset[Holder]:
        """See `Caches.holders`."""
        return self._consumer.holders(block_hash) if self._consumer is not None else frozenset()

    def resident(self) -> Mapping[Holder, int]:
        """See `Caches.resident`."""
        return self._consumer.resident() if self._consumer is not None else {}

    def _loaded(self) -> Consumer:
        given = self._sources
        return Consumer(
            archives=given.archives,
            store=given.state,
            transcripts=given.transcripts.by_stream,
            metrics=given.metrics,
            grace_ns=round(given.config.archive_grace_s * 1e9),
            clocks=given.clocks,
            spans=given.spans,
        )
