"""A stream's address as a person writes it, and how it becomes a complete one.

    tcp://HOST:PORT                    what a worker's `--kv-events-endpoint` says: the live
                                       endpoint over ZMQ; the next heartbeat tells the rest
    tcp://HOST:PORT?control=PORT&worker=ID&rank=N
                                       the same, without waiting for a heartbeat
    nats://HOST:PORT/kv.v1.WORKER.RANK a stream at a NATS broker

The epoch is whatever the publisher is at when the address is completed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import parse_qsl, urlsplit

from shepherd_events.control_client import control_of
from shepherd_events.errors import TransportError
from shepherd_events.events import Heartbeat, StreamAddress, StreamId
from shepherd_events.transports import NO_CREDENTIALS, connect
from shepherd_events.transports.credentials import CurveCredentials, ReaderCredentials

_FORMS = "tcp://HOST:PORT or nats://HOST:PORT/kv.v1.WORKER.RANK"
_SUBJECT = re.compile(r"/kv\.v1\.([^.]+)\.(\d+)")
_PROBE_PAGE_BYTES = 1
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class StreamUrl:
    """What a URL says of a stream."""

    transport: str
    live: str
    control: str = ""
    """Empty where the URL does not say."""
    stream: StreamId | None = None

    @classmethod
    def parse(cls, url: str) -> StreamUrl:
        """Read a URL.

        Raises:
            ValueError: it is of none of the forms.
        """
        parts = urlsplit(url)
        try:
            has_port = bool(parts.hostname and parts.port)
        except ValueError as error:
            raise ValueError(f"{url!r} is no stream: {error}") from error
        if not has_port or parts.scheme not in {"tcp", "nats"}:
            raise ValueError(f"{url!r} is no stream: expected {_FORMS}")
        if parts.scheme == "nats":
            return cls._of_broker(url, parts.netloc, parts.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = query.keys() - {"control", "worker", "rank"}
        if unknown or parts.path.strip("/"):
            odd = ", ".join(sorted(unknown)) or parts.path
            raise ValueError(f"{url!r}: {odd!r} is not known: expected control, worker and rank")
        for name in ("control", "rank"):
            if not query.get(name, "0").isdigit():
                raise ValueError(f"{url!r}: {name}={query[name]!r} is no number")
        if not 0 < int(query.get("control", "1")) <= _MAX_PORT:
            raise ValueError(f"{url!r}: control={query['control']} is not in 1..{_MAX_PORT}")
        host = parts.netloc.rpartition(":")[0]
        worker = query.get("worker", "")
        return cls(
            transport="zmq",
            live=f"tcp://{parts.netloc}",
            control=f"tcp://{host}:{query['control']}" if "control" in query else "",
            stream=StreamId(worker, int(query.get("rank", "0"))) if worker else None,
        )

    @classmethod
    def _of_broker(cls, url: str, netloc: str, path: str) -> StreamUrl:
        subject = _SUBJECT.fullmatch(path)
        if subject is None:
            raise ValueError(f"{url!r} names no stream: expected {_FORMS}")
        stream = StreamId(_unescaped(subject[1]), int(subject[2]))
        server = f"nats://{netloc}"
        return cls(
            transport="nats",
            live=server + path,
            control=server + path.replace("/kv.", "/kv.control.", 1),
            stream=stream,
        )


async def resolve(
    url: StreamUrl, *, timeout_s: float = 5.0, credentials: ReaderCredentials = NO_CREDENTIALS
) -> StreamAddress:
    """The complete address of a stream that exists now.

    Raises:
        NoAnswerError: nobody speaks, or answers, there.
        KvEventsError: the address cannot be used, or the answer makes no sense.
    """
    if url.stream is None or not url.control:
        return await _listen(url, timeout_s, credentials.curve)
    address = StreamAddress(url.stream, 1, url.transport, url.live, url.control)
    known = partial(connect, credentials=credentials)
    async with control_of(
        address, timeout_s=timeout_s, page_bytes=_PROBE_PAGE_BYTES, connect=known
    ) as control:
        return replace(address, epoch=(await control.head(1)).epoch)


async def _listen(
    url: StreamUrl, timeout_s: float, curve: CurveCredentials | None
) -> StreamAddress:
    """Let the next heartbeat tell whose stream it is and where it answers."""
    from shepherd_events.transports.zmq_probe import (  # noqa: PLC0415 - other wires need no ZMQ
        next_heartbeat,
    )

    frame = await next_heartbeat(url.live, timeout_s, curve)
    assert isinstance(frame.body, Heartbeat)
    port = frame.body.control.rpartition(":")[2]
    if not port.isdigit() and not url.control:
        raise TransportError(
            f"{url.live} does not say where it answers: add ?control=PORT to the URL"
        )
    control = url.control or f"{url.live.rpartition(':')[0]}:{port}"
    return StreamAddress(frame.stream, frame.epoch, "zmq", url.live, control)


def _unescaped(name: str) -> str:
    """A worker's name as NATS subjects write it, with =XX for a byte that is not plain."""
    return re.sub(
        "(?:=[0-9A-F]{2})+",
        lambda match: bytes.fromhex(match[0].replace("=", "")).decode(errors="replace"),
        name,
    )
