"""Which streams exist, who publishes them, and how to read their tokens.

Every worker serves an endpoint `kv_stream` beside `generate`; it answers with
its `StreamDescriptor` and, when asked, with its `TokenizerAssets`, so that a
reader on another machine needs no model directory.  There is no second registry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.transcript import TokenizerAssets

KV_STREAM_ENDPOINT = "kv_stream"
"""Name of the endpoint that every worker serves for readers of its stream."""


@dataclass(frozen=True, slots=True)
class StreamDescriptor:
    """What a worker says of itself to whoever wants to read its stream."""

    address: StreamAddress
    role: str
    model: str
    block_size: int

    def to_json(self) -> dict[str, Any]:
        """The answer of the endpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> StreamDescriptor:
        """Read an answer of the endpoint.

        Raises:
            ValueError: a field is missing or of the wrong kind.
        """
        try:
            address = answer["address"]
            stream = StreamId(
                str(address["stream"]["worker_id"]), int(address["stream"]["dp_rank"])
            )
            return cls(
                address=StreamAddress(
                    stream=stream,
                    epoch=int(address["epoch"]),
                    transport=str(address["transport"]),
                    live=str(address["live"]),
                    control=str(address["control"]),
                ),
                role=str(answer["role"]),
                model=str(answer["model"]),
                block_size=int(answer["block_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a stream descriptor: {error!r} in {answer!r}") from error


@dataclass(frozen=True, slots=True)
class StreamJoined:
    """A worker appeared, or came back under a new epoch."""

    descriptor: StreamDescriptor


@dataclass(frozen=True, slots=True)
class StreamLeft:
    """A worker is gone, and its volatile cache with it."""

    stream: StreamId


DirectoryEvent = StreamJoined | StreamLeft


class StreamDirectory(Protocol):
    """A view of the streams that exist."""

    def watch(self) -> AsyncIterator[DirectoryEvent]:
        """The streams that exist now, then every change; never ends by itself."""
        ...

    async def tokenizer_assets(self, stream: StreamId) -> TokenizerAssets:
        """The tokenizer and chat template of a stream's model.

        Raises:
            ConnectionError: the worker does not answer.
        """
        ...
