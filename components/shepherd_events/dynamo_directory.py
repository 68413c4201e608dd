"""Finds streams through Dynamo's discovery, whatever its backend.

Polls the local view that Dynamo keeps of each `kv_stream` endpoint: a worker
that was killed leaves it when its lease ends, about ten seconds later with the
file backend.  The only file outside the worker that imports dynamo.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from dynamo.runtime import Client, DistributedRuntime
from dynamo.runtime.logging import configure_dynamo_logging

from shepherd_events.discovery import (
    KV_STREAM_ENDPOINT,
    DirectoryEvent,
    StreamDescriptor,
    StreamJoined,
    StreamLeft,
)
from shepherd_events.events import StreamId
from shepherd_events.transcript import TokenizerAssets

log = logging.getLogger(__name__)

ASSETS_TIMEOUT_S = 30.0
DESCRIPTOR_TIMEOUT_S = 5.0


def configure_logging() -> None:
    """Send Python's log records where Dynamo's go, in the format that `DYN_LOG...` ask for."""
    configure_dynamo_logging()


class DynamoDirectory:
    """The streams of some components of one namespace; event loop only."""

    def __init__(
        self,
        *,
        namespace: str,
        components: Sequence[str],
        discovery_backend: str,
        request_plane: str = "tcp",
        poll_s: float = 0.25,
    ) -> None:
        self._paths = [f"{namespace}.{name}.{KV_STREAM_ENDPOINT}" for name in components]
        self._backend = discovery_backend
        self._request_plane = request_plane
        self._poll_s = poll_s
        self._runtime: DistributedRuntime | None = None
        self._clients: list[Client] = []
        self._where: dict[StreamId, tuple[Client, int]] = {}

    async def connect(self) -> None:
        """Join Dynamo; must be called before the other methods, once.

        Raises:
            ConnectionError: the discovery backend does not answer.
        """
        loop = asyncio.get_running_loop()
        try:
            self._runtime = DistributedRuntime(loop, self._backend, self._request_plane)
        except Exception as error:
            raise ConnectionError(
                f"discovery ({self._backend}) does not answer: {error}"
            ) from error
        self._clients = [await self._runtime.endpoint(path).client() for path in self._paths]

    async def watch(self) -> AsyncIterator[DirectoryEvent]:
        """See `StreamDirectory.watch`."""
        known: dict[tuple[int, int], list[StreamDescriptor]] = {}
        while True:
            present = {
                (index, instance)
                for index, client in enumerate(self._clients)
                for instance in client.instance_ids()
            }
            for key in known.keys() - present:
                for stream in [each.address.stream for each in known.pop(key)]:
                    if self._where.get(stream) == self._place(key):  # no successor has taken over
                        del self._where[stream]
                        yield StreamLeft(stream)
            for key in sorted(present - known.keys()):
                descriptors = await self._describe(key)
                if descriptors:
                    known[key] = descriptors
                for descriptor in descriptors:
                    yield StreamJoined(descriptor)
            await asyncio.sleep(self._poll_s)

    async def tokenizer_assets(self, stream: StreamId) -> TokenizerAssets:
        """See `StreamDirectory.tokenizer_assets`."""
        if stream not in self._where:
            raise ConnectionError(f"stream {stream} is not in the directory")
        client, instance = self._where[stream]
        (answer, *_) = await _ask(client, instance, {"want": "tokenizer"}, ASSETS_TIMEOUT_S)
        return TokenizerAssets.from_json(answer)

    def _place(self, key: tuple[int, int]) -> tuple[Client, int]:
        index, instance = key
        return self._clients[index], instance

    async def _describe(self, key: tuple[int, int]) -> list[StreamDescriptor]:
        """The streams of one instance, one per rank; none where it does not answer yet, or has none."""
        client, instance = self._place(key)
        try:
            answers = await _ask(client, instance, {"want": "descriptor"}, DESCRIPTOR_TIMEOUT_S)
            descriptors = [StreamDescriptor.from_json(answer) for answer in answers]
        except (ConnectionError, ValueError) as error:
            log.info("instance %x did not describe its stream: %s", instance, error)
            return []
        for descriptor in descriptors:
            self._where[descriptor.address.stream] = (client, instance)
        return descriptors

    def close(self) -> None:
        """Leave Dynamo."""
        if self._runtime is not None:
            self._runtime.shutdown()
            self._runtime = None


async def _ask(
    client: Client, instance: int, question: dict[str, Any], limit_s: float
) -> list[Any]:
    """What an instance answers; at least one thing.

    Raises:
        ConnectionError: it did not answer in time, or with an error.
    """
    try:
        async with asyncio.timeout(limit_s):
            stream = await client.direct(question, instance, annotated=False)
            answers = [answer async for answer in stream]
    except Exception as error:
        raise ConnectionError(f"instance {instance:x}: {error}") from error
    if not answers:
        raise ConnectionError(f"instance {instance:x} answered nothing")
    return answers
