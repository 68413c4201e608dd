"""`shepherd kv bridge`: a foreign publisher's events as streams of ours."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry, start_http_server

from shepherd_cli.kv.bridge_metrics import BridgeCollector
from shepherd_cli.kv.bridge_options import BridgeOptions, load_options
from shepherd_cli.kv.record import url_of
from shepherd_cli.kv.sources import DYNAMO_LOG
from shepherd_cli.kv.terminal import UNUSABLE_FILE, USAGE, CommandError, say, write
from shepherd_config import OptionError, Resolved
from shepherd_events.block_hash import HASH_ALGO, root_hash
from shepherd_events.discovery import StreamDescriptor
from shepherd_events.errors import TransportError
from shepherd_events.events import StreamId, StreamInfo, Tier
from shepherd_events.foreign.bridge import Bridge, BridgePatience
from shepherd_events.foreign.dialects import DIALECTS
from shepherd_events.foreign.zmq_source import ZmqForeignSource
from shepherd_events.publisher import KvEventPublisher, PublisherCounters
from shepherd_worker.errors import StartError
from shepherd_worker.stream import epoch_file_of, open_transport


async def run_bridge(argv: Sequence[str]) -> None:
    """Read and publish until interrupted; writes the URL of each stream when it can be read.

    Raises:
        CommandError: an option is wrong, or what it names cannot be used.
    """
    try:
        await _run(load_options(argv))
    except OptionError as error:
        raise CommandError(USAGE, str(error)) from error
    except StartError as error:
        raise CommandError(error.exit_code, str(error)) from error
    except TransportError as error:
        raise CommandError(UNUSABLE_FILE, str(error)) from error


async def _run(resolved: Resolved[BridgeOptions]) -> None:
    if resolved.check:
        await write(resolved.describe() + "\n")
        return
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    options = resolved.config
    source = ZmqForeignSource(options.source, options.replay, topic=options.topic)
    streams = BridgeStreams(options)
    try:
        bridge = Bridge(
            source,
            DIALECTS[options.format],
            streams.open,
            model=options.model,
            rank=options.rank,
            block_size=options.block_size,
            max_blocks=options.max_blocks,
            harmless=frozenset(options.harmless_events),
            patience=BridgePatience(probe_s=options.probe_s, gone_after_s=options.gone_after_s),
        )
        async with AsyncExitStack() as cleanup:
            _serve_metrics(options, bridge, streams, cleanup)
            _register(options, streams, cleanup)
            telling = asyncio.create_task(streams.tell())
            cleanup.callback(telling.cancel)
            await bridge.run()
    finally:
        await source.close()
        await asyncio.to_thread(streams.close)


class BridgeStreams:
    """One stream for each rank of the source; event loop only."""

    def __init__(self, options: BridgeOptions) -> None:
        self._options = options
        self._publishers: dict[int, KvEventPublisher] = {}
        self.descriptors: list[StreamDescriptor] = []
        """Of the streams that there are, in the order in which they began."""
        self._urls: asyncio.Queue[str] = asyncio.Queue()

    def open(self, rank: int, block_size: int) -> KvEventPublisher:
        """See `Bridge`.

        Raises:
            KvEventsError: the endpoint, a key or the epoch file cannot be used.
        """
        options = self._options
        stream = StreamId(options.worker_id or f"bridge-{options.format}", rank)
        publisher = KvEventPublisher(
            stream,
            StreamInfo(
                model=options.model,
                block_size=block_size,
                hash_algo=HASH_ALGO,
                hash_seed_id=root_hash(options.model.encode()).to_bytes(8, "little"),
                tiers=tuple(Tier),
                engine=options.format,
            ),
            open_transport(options, stream),
            epoch_file=epoch_file_of(options, stream),
            veil=options.veil(),
        )
        publisher.start()
        self._publishers[rank] = publisher
        self.descriptors.append(
            StreamDescriptor(publisher.address, "bridge", options.model, block_size)
        )
        self._urls.put_nowait(url_of(publisher.address))
        return publisher

    def counters(self) -> dict[int, PublisherCounters]:
        """What each stream counted; from any thread."""
        return {rank: each.counters for rank, each in self._publishers.copy().items()}

    async def tell(self) -> None:
        """Write each new stream's URL, for ever."""
        while True:
            await write(await self._urls.get() + "\n")

    def close(self) -> None:
        """Say goodbye; blocks for a second or so."""
        for publisher in self._publishers.values():
            publisher.close("the bridge was shut down")


def _register(options: BridgeOptions, streams: BridgeStreams, cleanup: AsyncExitStack) -> None:
    if not options.register:
        return
    os.environ.setdefault("DYN_LOG", DYNAMO_LOG)
    from shepherd_cli.kv.bridge_discovery import BridgePresence  # noqa: PLC0415 - imports dynamo

    presence = BridgePresence(options, streams.descriptors)
    cleanup.push_async_callback(presence.close)


def _serve_metrics(
    options: BridgeOptions, bridge: Bridge, streams: BridgeStreams, cleanup: AsyncExitStack
) -> None:
    if options.metrics_port is None:
        return
    registry = CollectorRegistry()
    registry.register(BridgeCollector(bridge, streams.counters))
    try:
        server, thread = start_http_server(
            options.metrics_port, addr="127.0.0.1", registry=registry
        )
    except OSError as error:
        problem = f"--metrics-port {options.metrics_port}: {error}"
        raise CommandError(UNUSABLE_FILE, problem) from error
    cleanup.callback(thread.join)
    cleanup.callback(server.server_close)
    cleanup.callback(server.shutdown)
    say(f"metrics: http://127.0.0.1:{server.server_port}/metrics")
