"""Finds streams through Dynamo's discovery, whatever its backend.

Polls the local view that Dynamo keeps of each `kv_stream` endpoint: a worker
that was killed leaves it when its lease ends, about ten seconds later with the
file backend.  Each newcomer is asked by itself, so that one which is frozen keeps
nobody else from joining.  The only file outside the worker that imports dynamo.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
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

_Key = tuple[int, int]
"""Which of the endpoints, and which instance of it."""


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
        known: dict[_Key, list[StreamDescriptor]] = {}
        asked: dict[_Key, asyncio.Task[list[StreamDescriptor]]] = {}
        try:
            while True:
                present = self._present()
                for key in known.keys() - present:
                    for left in self._left(key, known.pop(key)):
                        yield left
                for key in sorted(present - known.keys() - asked.keys()):
                    asked[key] = asyncio.create_task(self._describe(key))
                for key in [key for key, task in asked.items() if task.done()]:
                    descriptors = asked.pop(key).result()
                    if descriptors and key in present:
                        known[key] = descriptors
                        for joined in self._joined(key, descriptors):
                            yield joined
                await asyncio.sleep(self._poll_s)
        finally:
            for task in asked.values():
                task.cancel()

    def _present(self) -> set[_Key]:
        """The instances that exist now."""
        return {
            (index, instance)
            for index, client in enumerate(self._clients)
            for instance in client.instance_ids()
        }

    def _joined(self, key: _Key, descriptors: Sequence[StreamDescriptor]) -> Iterator[StreamJoined]:
        for descriptor in descriptors:
            self._where[descriptor.address.stream] = self._place(key)
            yield StreamJoined(descriptor)

    def _left(self, key: _Key, descriptors: Sequence[StreamDescriptor]) -> Iterator[StreamLeft]:
        for descriptor in descriptors:
            stream = descriptor.address.stream
            if self._where.get(stream) == self._place(key):  # no successor has taken over
                del self._where[stream]
                yield StreamLeft(stream)

    async def tokenizer_assets(self, stream: StreamId) -> TokenizerAssets:
        """See `StreamDirectory.tokenizer_assets`."""
        if stream not in self._where:
            raise ConnectionError(f"stream {stream} is not in the directory")
        client, instance = self._where[stream]
        (answer, *_) = await _ask(client, instance, {"want": "tokenizer"}, ASSETS_TIMEOUT_S)
        return TokenizerAssets.from_json(answer)

    def _place(self, key: _Key) -> tuple[Client, int]:
        index, instance = key
        return self._clients[index], instance

    async def _describe(self, key: _Key) -> list[StreamDescriptor]:
        """The streams of one instance, one per rank; none where it does not answer yet, or has none."""
        client, instance = self._place(key)
        try:
            answers = await _ask(client, instance, {"want": "descriptor"}, DESCRIPTOR_TIMEOUT_S)
            return [StreamDescriptor.from_json(answer) for answer in answers]
        except (ConnectionError, ValueError) as error:
            log.info("instance %x did not describe its stream: %s", instance, error)
            return []

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
