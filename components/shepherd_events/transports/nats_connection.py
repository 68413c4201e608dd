"""What both ends of the NATS wire share: names, credentials, one way to connect.

    kv.v1.WORKER.RANK            numbered frames, stored by JetStream in KV_WORKER_RANK
    kv.heartbeat.v1.WORKER.RANK  heartbeats, never stored
    kv.control.v1.WORKER.RANK    replay and snapshot requests

A broker beyond loopback is spoken to over TLS and with an NKEY, or not at all:
whoever reads the subjects reads the frames.
"""

from __future__ import annotations

import logging
import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client

from shepherd_events.errors import TransportError
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.transports.addresses import is_loopback
from shepherd_events.transports.credentials import NatsCredentials

logger = logging.getLogger(__name__)

_PLAIN = re.compile(r"[A-Za-z0-9-]")
_RECONNECT_S = 0.2


@dataclass(frozen=True, slots=True)
class Subjects:
    """Where one stream travels."""

    live: str
    heartbeat: str
    control: str
    log: str
    """Name of the JetStream stream that keeps the live subject."""

    @classmethod
    def of(cls, stream: StreamId) -> Subjects:
        """The subjects of a stream, whatever characters its worker's name has."""
        name = "".join(_escaped(char) for char in stream.worker_id)
        place = f"v1.{name}.{stream.dp_rank}"
        return cls(
            live=f"kv.{place}",
            heartbeat=f"kv.heartbeat.{place}",
            control=f"kv.control.{place}",
            log=f"KV_{name}_{stream.dp_rank}",
        )


def server_of(address: StreamAddress) -> str:
    """The broker's URL in an address that a publisher gave.

    Raises:
        TransportError: it names no broker.
    """
    url = urlsplit(address.live)
    if url.scheme != "nats" or not url.hostname:
        raise TransportError(
            f"cannot connect to {address.live!r}: expected nats://HOST:PORT/SUBJECT"
        )
    return f"nats://{url.netloc}"


def check_server(server: str, credentials: NatsCredentials) -> None:
    """Refuse to speak to a broker beyond loopback in clear or without a name.

    Raises:
        TransportError: `server` is no URL of a broker, or credentials are missing.
    """
    url = urlsplit(server)
    if url.scheme != "nats" or not url.hostname:
        raise TransportError(f"{server!r} is no broker: expected nats://HOST:PORT")
    if url.username or url.password:
        raise TransportError("credentials belong in a file, not in the broker's URL")
    if is_loopback(url.hostname) or (credentials.tls and credentials.nkey_seed_file):
        return
    raise TransportError(
        f"refusing to use the broker {server} without TLS and an NKEY: "
        "whoever reads its subjects could read every token"
    )


async def open_connection(server: str, credentials: NatsCredentials, name: str) -> Client:
    """Connect, and from then on come back by oneself for as long as it takes.

    Raises:
        OSError, nats.errors.Error: the broker is not there, or does not let us in.
    """
    options: dict[str, Any] = {}
    if credentials.tls:
        options["tls"] = ssl.create_default_context(cafile=credentials.ca_file or None)
    if credentials.nkey_seed_file:
        options["nkeys_seed"] = credentials.nkey_seed_file
    client = Client()
    try:
        await client.connect(
            server,
            name=name,
            error_cb=_log_error,
            connect_timeout=2,
            reconnect_time_wait=_RECONNECT_S,  # type: ignore[arg-type] # seconds, slept as they are
            max_reconnect_attempts=-1,
            **options,
        )
    except BaseException:
        await client.close()
        raise
    return client


async def _log_error(error: Exception) -> None:
    logger.info("broker: %r", error)


def _escaped(char: str) -> str:
    return char if _PLAIN.fullmatch(char) else "".join(f"={byte:02X}" for byte in char.encode())
