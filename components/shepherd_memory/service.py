"""The memory service: streams in, archive and HTTP out.

    directory ──► Following: readers ──► Applier ──► Consumer (writer thread) ──► archives, index
                                            │ rings
                                            ▼
                  HTTP ◄── doors ◄── Memory ◄── Bell

Where replicas share a database, one of them follows the streams (`replicas.py`).

Every task belongs to one group; cancelling `serve` ends them, lets open
requests finish and closes the stores.  Nothing has to be flushed: what was not
committed is replayed by the streams after the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from shepherd_events.discovery import StreamDirectory
from shepherd_events.transcript import TranscriptReader
from shepherd_events.transports import connect as connect_by_address
from shepherd_events.transports.protocol import Connect
from shepherd_http.server import url_of
from shepherd_memory import doors, stores
from shepherd_memory.api.app import Status
from shepherd_memory.clocks import Clocks
from shepherd_memory.config import MemoryConfig
from shepherd_memory.embedding import create_embedder, create_reranker
from shepherd_memory.embedding.protocol import Embedder
from shepherd_memory.following import Following, Sources
from shepherd_memory.memory import Means
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.replicas import Lease, Replica
from shepherd_memory.search import Searcher
from shepherd_memory.store_size import keep_measuring
from shepherd_memory.streams import MakeTranscript, Transcripts
from shepherd_memory.upkeep import Upkeep
from shepherd_memory.writer import WriterThread
from shepherd_telemetry.process_metrics import ProcessMetrics
from shepherd_telemetry.spans import NO_SPANS, Spans


async def serve(
    config: MemoryConfig,
    directory: StreamDirectory,
    *,
    make_transcript: MakeTranscript = TranscriptReader,
    connect: Connect | None = None,
    spans: Spans = NO_SPANS,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Run until cancelled; `on_ready` is told the URL as soon as requests are accepted.

    Raises:
        OSError: the data directory or the HTTP address cannot be used.
        DataDirectoryInUseError: another process serves the data directory.
        SchemaVersionError: a later version wrote the data directory.
        UnusableModelError: the embedder or reranker cannot be loaded.
        ConnectionError, ArchiveAccessError: the database cannot be used, or not in this role.
        ExceptionGroup: a store is damaged; one that cannot be used just now is waited for.
    """
    metrics, bell, clocks = Metrics(), Bell(), Clocks()
    embedder, searcher = await asyncio.to_thread(_models, config, metrics, clocks)
    async with (
        ProcessMetrics(metrics.registry, "memory") as process,
        doors.bound(config) as listeners,
        WriterThread() as writer,
        stores.opened(config, writer, embedder) as kept,
    ):
        following = Following(
            Sources(
                config=config,
                archives=kept.archives,
                state=kept.state,
                directory=directory,
                transcripts=Transcripts(directory, make_transcript),
                connect=connect or partial(connect_by_address, credentials=config.credentials),
                writer=writer,
                bell=bell,
                metrics=metrics,
                clocks=clocks,
                spans=spans,
            )
        )
        means = Means(
            archives=kept.archives,
            writer=writer,
            bell=bell,
            metrics=metrics,
            clocks=clocks,
            template=config.template(),
            replay_dead_letter=following.replay_dead_letter,
            caches=following,
            follows_streams=following.is_begun,
            searcher=searcher,
            spans=spans,
            max_tenant_bytes=config.tenant_max_mb << 20,
        )
        work = _Work(following, _upkeep(config, means, embedder), bell)
        run = await work.prepared(kept.lease)

        status = Status(following.health, metrics.render)
        process.ready.set_function(lambda: status.health()[0])
        async with doors.opened(config, listeners, means, status) as tasks:
            tasks.create_task(run(), name="work")
            tasks.create_task(keep_measuring(kept.sizes, metrics), name="sizes")
            on_ready(url_of(listeners.public))


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done beside answering: by this process alone, or by the replica that leads."""

    following: Following
    upkeep: Upkeep
    bell: Bell

    async def prepared(self, lease: Lease | None) -> Callable[[], Coroutine[Any, Any, None]]:
        """What to run; without other replicas, what the last run left is loaded first."""
        if lease is not None:
            tell = self.following.tell_of_store
            return Replica(lease, lead=self._lead, stand_by=self._stand_by, tell=tell).run
        await self.following.begin()
        return self._go_on

    async def _lead(self) -> None:
        await self.following.begin()
        await self._go_on()

    async def _stand_by(self) -> None:
        """Another replica rings only its own bell: whoever waits here looks again by time."""
        self.bell.ring()
        await self.upkeep.write_recalled()

    async def _go_on(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.following.run(), name="streams")
            tasks.create_task(self.upkeep.run(), name="upkeep")


def _upkeep(config: MemoryConfig, means: Means, embedder: Embedder | None) -> Upkeep:
    return Upkeep(
        archives=means.archives,
        writer=means.writer,
        bell=means.bell,
        metrics=means.metrics,
        clocks=means.clocks,
        recalls=means.recalls,
        embedder=embedder,
        keeping=config.keeping,
    )


def _models(
    config: MemoryConfig, metrics: Metrics, clocks: Clocks
) -> tuple[Embedder | None, Searcher]:
    """What the options name, loaded.

    Raises:
        UnusableModelError: a model cannot be loaded.
    """
    embedder = create_embedder(config.embedder, api_key=config.embedder_key)
    searcher = Searcher(
        embedder=embedder,
        reranker=create_reranker(config.reranker),
        now_unix_ns=clocks.unix_ns,
        on_failure=lambda model: metrics.model_failures.labels(model).inc(),
    )
    return embedder, searcher
