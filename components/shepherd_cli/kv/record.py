"""`shepherd kv record` and `shepherd kv replay`: streams to a file, and back on a wire."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from shepherd_cli.kv.sources import Source
from shepherd_cli.kv.tail import announce
from shepherd_cli.kv.terminal import UNREACHABLE, UNUSABLE_FILE, USAGE, CommandError, say, write
from shepherd_events.events import StreamAddress, StreamId, StreamInfo
from shepherd_events.follow import StreamFollower, StreamItem, follow
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.recording import RecordedItem, Recording, RecordingWriter
from shepherd_events.replayer import Replayer
from shepherd_events.transports.protocol import PublisherTransport

_FLUSH_S = 0.5
_FLUSH_BYTES = 1 << 20


async def run_record(
    source: Source, path: Path, urls: Sequence[str], *, from_head: bool, duration_s: float
) -> None:
    """Write what the streams say until interrupted, or for a while; the file is whole then."""
    try:
        file = _private(path)
    except FileExistsError:
        problem = f"{path} exists: name another file, or remove it"
        raise CommandError(UNUSABLE_FILE, problem) from None
    writer = RecordingWriter(file, created_unix_ns=time.time_ns())
    try:
        async with (
            source.directory(urls) as directory,
            follow(
                directory, from_head=from_head, keys=source.keys, connect=source.connect
            ) as changes,
        ):
            with suppress(TimeoutError):
                async with asyncio.timeout(duration_s or None):
                    await _record(changes, writer)
    finally:
        _close(writer, file, path)


def _private(path: Path) -> BinaryIO:
    """A new file that nobody else may read: token ids are what was said.

    Raises:
        FileExistsError: it is not new.
    """
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


async def _record(changes: StreamFollower, writer: RecordingWriter) -> None:
    flushed_at = time.monotonic()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                change = await anext(changes)
                announce(change)
                if isinstance(change, StreamItem):
                    writer.add(RecordedItem(time.time_ns(), change.stream, change.item))
        late = time.monotonic() - flushed_at > _FLUSH_S
        if writer.waiting_bytes and (late or writer.waiting_bytes > _FLUSH_BYTES):
            await asyncio.to_thread(writer.flush)
            flushed_at = time.monotonic()


def _close(writer: RecordingWriter, file: BinaryIO, path: Path) -> None:
    """Close the file and say what is in it; one without items is not left behind."""
    with file:
        if writer.items:
            writer.close()
    if writer.items:
        say(f"{path}: {writer.items} items, {writer.size_bytes} bytes")
    else:
        path.unlink()
        say(f"{path} was not written: nothing was said")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Where to, how fast, from when on."""

    to: str
    speed: float
    skip_s: float = 0.0
    stay: bool = False
    """Keep the streams after the end, until interrupted."""


async def run_replay(path: Path, options: ReplayOptions) -> None:
    """Publish a recording; writes the URL of every stream as soon as it can be read."""
    urls: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def open_publisher(stream: StreamId, info: StreamInfo) -> KvEventPublisher:
        publisher = KvEventPublisher(stream, info, _transport(options.to, stream))
        publisher.start()
        loop.call_soon_threadsafe(urls.put_nowait, url_of(publisher.address))
        return publisher

    with Recording(path) as recording:
        replayer = Replayer(open_publisher, options.speed)
        telling = asyncio.create_task(_tell(urls))
        try:
            await replayer.play(recording.items(skip_s=options.skip_s))
            say(f"{path}: {replayer.items} items on {len(replayer.publishers)} streams")
            if recording.unread_bytes:
                say(f"{path} was not closed: its last {recording.unread_bytes} bytes were not read")
            if options.stay:
                await asyncio.Event().wait()
        finally:
            await replayer.close("the recording is over")
            telling.cancel()
            await asyncio.wait([telling])
    failures = sum(p.counters.send_failures for p in replayer.publishers.values())
    if failures:
        raise CommandError(UNREACHABLE, f"{options.to} did not take {failures} frames")


async def _tell(urls: asyncio.Queue[str]) -> None:
    while True:
        await write(await urls.get() + "\n")


def url_of(address: StreamAddress) -> str:
    """An address as `StreamUrl` reads it."""
    if address.transport != "zmq":
        return address.live
    port = address.control.rpartition(":")[2]
    stream = address.stream
    return f"{address.live}?control={port}&worker={stream.worker_id}&rank={stream.dp_rank}"


def parse_speed(text: str) -> float:
    """`max`, or a number above 0.

    Raises:
        CommandError: it is neither.
    """
    if text == "max":
        return math.inf
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise CommandError(USAGE, f"--speed {text!r}: expected a number above 0, or max")


def parse_target(text: str) -> str:
    """Where a replay goes, as it was written.

    Raises:
        CommandError: it is no URL of a broker or of an address to listen on.
    """
    expected = "expected tcp://HOST:PORT or nats://HOST:PORT"
    try:
        url = urlsplit(text)
        _ = url.port  # raises where it is no number, or too high
    except ValueError as error:
        raise CommandError(USAGE, f"--to {text!r}: {error}: {expected}") from error
    if url.scheme not in {"tcp", "nats"} or not url.hostname:
        raise CommandError(USAGE, f"--to {text!r}: {expected}")
    return text


def _transport(to: str, stream: StreamId) -> PublisherTransport:
    url = urlsplit(to)
    if url.scheme == "nats":
        from shepherd_events.transports.nats_publisher import (  # noqa: PLC0415 - an extra
            NatsPublisherTransport,
        )

        return NatsPublisherTransport(to, stream)
    from shepherd_events.transports.zmq import (  # noqa: PLC0415 - other wires need no ZMQ
        ZmqPublisherTransport,
    )

    return ZmqPublisherTransport(url.hostname or "", url.port or 0)
