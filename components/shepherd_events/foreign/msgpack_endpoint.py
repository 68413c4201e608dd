"""Where a stream in vLLM's form is published: `vllm://HOST:PORT?replay=PORT&topic=TOPIC`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from shepherd_events.transports.addresses import is_loopback

_FORM = "vllm://HOST:PORT?replay=PORT&topic=TOPIC"


@dataclass(frozen=True, slots=True)
class MsgpackEndpoint:
    """Two ports of this machine; the form knows no keys, so that nobody else may reach them."""

    host: str
    port: int
    """Live messages; 0 takes a free one."""
    replay_port: int | None
    """None for a stream that cannot be replayed."""
    topic: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an address.

        Raises:
            ValueError: it is none, or is not on loopback.
        """
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        replay = query.pop("replay", None)
        topic = query.pop("topic", "")
        try:
            port = parts.port
        except ValueError:
            port = None
        is_one = parts.scheme == "vllm" and parts.hostname and port is not None
        if not is_one or parts.path.strip("/") or query:
            raise ValueError(f"{url!r}: expected {_FORM}")
        if replay is not None and not (replay.isdecimal() and int(replay) < 1 << 16):
            raise ValueError(f"{url!r}: replay={replay!r}: expected a port")
        assert parts.hostname is not None
        assert port is not None
        if not is_loopback(parts.hostname):
            raise ValueError(
                f"{url!r}: expected a loopback address: tokens are in clear in this form, "
                "and it knows no keys"
            )
        return cls(parts.hostname, port, None if replay is None else int(replay), topic)
