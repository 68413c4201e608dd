"""The memory service: streams in, archive and HTTP out.

    directory ──► StreamReaders ──► Applier ──► Consumer (writer thread) ──► archives, index
                                       │ rings
                                       ▼
             HTTP ◄── doors ◄── Memory ◄── Bell

Every task belongs to one group; cancelling `serve` ends them, lets open
requests finish and closes the stores.  Nothing has to be flushed: what was not
committed is replayed by the streams after the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shepherd_events.discovery import StreamDirectory
from shepherd_events.transcript import TranscriptReader
from shepherd_events.transports import connect as connect_by_address
from shepherd_events.transports.protocol import Connect
from shepherd_http.server import url_of
from shepherd_memory import doors
from shepherd_memory.api.app import Status
from shepherd_memory.applier import Applier
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.clocks import Clocks
from shepherd_memory.config import MemoryConfig
from shepherd_memory.consumer import Consumer
from shepherd_memory.data_lock import locked
from shepherd_memory.embedding import create_embedder, create_reranker
from shepherd_memory.embedding.protocol import Embedder
from shepherd_memory.health import Applied, health_document, is_healthy
from shepherd_memory.index_store import IndexStore
from shepherd_memory.memory import Means
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.search import Searcher
from shepherd_memory.streams import MakeTranscript, StreamReaders, Transcripts
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
        ExceptionGroup: a store is damaged; one that cannot be used just now is waited for.
    """
    metrics, bell, clocks = Metrics(), Bell(), Clocks()
    transcripts = Transcripts(directory, make_transcript)
    async with (
        ProcessMetrics(metrics.registry, "memory") as process,
        doors.bound(config) as listeners,
        WriterThread() as writer,
        _opened(config.data_path, writer) as (archives, store),
    ):
        consumer = await writer.run(
            lambda: Consumer(
                archives=archives,
                store=store,
                transcripts=transcripts.by_stream,
                metrics=metrics,
                grace_ns=round(config.archive_grace_s * 1e9),
                clocks=clocks,
                spans=spans,
            )
        )
        applier = Applier(
            consumer=consumer, writer=writer, bell=bell, metrics=metrics, clocks=clocks
        )
        connect = connect or partial(connect_by_address, credentials=config.credentials)
        readers = _readers(config, transcripts, applier, metrics, consumer, directory, connect)
        embedder, searcher = await asyncio.to_thread(_models, config, metrics, clocks)
        means = Means(
            archives=archives,
            writer=writer,
            bell=bell,
            metrics=metrics,
            clocks=clocks,
            template=config.template(),
            replay_dead_letter=consumer.replay_dead_letter,
            caches=consumer,
            searcher=searcher,
            spans=spans,
            max_tenant_bytes=config.tenant_max_mb << 20,
        )
        upkeep = _upkeep(config, means, embedder)

        status = Status(partial(_health, readers, consumer, applier), metrics.render)
        process.ready.set_function(lambda: status.health()[0])
        async with doors.opened(config, listeners, means, status) as tasks:
            tasks.create_task(applier.run(), name="applier")
            tasks.create_task(readers.run(), name="streams")
            tasks.create_task(upkeep.run(), name="upkeep")
            on_ready(url_of(listeners.public))


def _readers(
    config: MemoryConfig,
    transcripts: Transcripts,
    applier: Applier,
    metrics: Metrics,
    consumer: Consumer,
    directory: StreamDirectory,
    connect: Connect,
) -> StreamReaders:
    return StreamReaders(
        directory=directory,
        transcripts=transcripts,
        applier=applier,
        metrics=metrics,
        stored={each: consumer.positions.get(each) for each in consumer.known_streams},
        settle_s=config.settle_s,
        connect=connect,
        holds=consumer.holds,
        keys=config.tenant_keys(),
    )


def _health(
    readers: StreamReaders, consumer: Consumer, applier: Applier
) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and the document that says why."""
    reports = readers.reports()
    applied = Applied(consumer.positions, applier.lag_s, applier.backlog, applier.store_failure)
    return is_healthy(reports, applied), health_document(reports, applied)


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


@asynccontextmanager
async def _opened(
    directory: Path, writer: WriterThread
) -> AsyncIterator[tuple[SqliteArchives, IndexStore]]:
    """The stores in the data directory; opened, used and closed in the writer thread."""
    async with AsyncExitStack() as opened:
        opened.enter_context(locked(directory))
        archives = await writer.run(lambda: SqliteArchives(directory / "tenants"))
        opened.push_async_callback(writer.run, archives.close)
        store = await writer.run(lambda: IndexStore(directory / "index.db"))
        opened.push_async_callback(writer.run, store.close)
        yield archives, store
