"""Both sides of discovery in processes of their own: who has a stream, and who looks for it.

    python discovered_stream.py worker NAME     publishes, and answers for its stream
    python discovered_stream.py reader          says what joins and leaves, and how each stream is

With Dynamo's environment variables, as any worker has them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from dynamo.runtime import DistributedRuntime

from line_process import say
from shepherd_events.discovery import (
    KV_STREAM_ENDPOINT,
    StreamDescriptor,
    StreamJoined,
    StreamLeft,
)
from shepherd_events.dynamo_directory import DynamoDirectory
from shepherd_events.events import StreamId
from shepherd_events.follow import StreamFollower, follow
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.zmq import ZmqPublisherTransport
from stream_process import PATIENCE
from stream_readers import INFO, stored

NAMESPACE, COMPONENT = "faults", "backend"


async def worker(name: str) -> None:
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
    publisher = KvEventPublisher(StreamId(name), INFO, ZmqPublisherTransport(), heartbeat_s=0.05)
    publisher.start()
    publisher.publish([stored(1, 2)])
    descriptor = StreamDescriptor(publisher.address, role="test", model="model-1", block_size=2)

    async def answer(question: Any) -> AsyncIterator[dict[str, Any]]:
        del question
        yield descriptor.to_json()

    endpoint = runtime.endpoint(f"{NAMESPACE}.{COMPONENT}.{KV_STREAM_ENDPOINT}")
    serving = asyncio.ensure_future(endpoint.serve_endpoint(answer))
    say({})
    await asyncio.to_thread(sys.stdin.readline)
    await endpoint.unregister_endpoint_instance()
    publisher.close("left")
    runtime.shutdown()
    await serving
    say({})


async def reader() -> None:
    directory = DynamoDirectory(
        namespace=NAMESPACE, components=[COMPONENT], discovery_backend="file", poll_s=0.05
    )
    await directory.connect()
    history: list[list[str]] = []
    async with follow(directory, patience=PATIENCE) as follower:
        reading = asyncio.create_task(_note(follower, history))
        say({})
        while await asyncio.to_thread(sys.stdin.readline):
            states = {s.worker_id: f.state.value for s, f in follower.streams.items()}
            say({"history": history, "states": states})
        reading.cancel()
    directory.close()


async def _note(follower: StreamFollower, history: list[list[str]]) -> None:
    async for change in follower:
        if isinstance(change, StreamJoined):
            history.append(["joined", change.descriptor.address.stream.worker_id])
        elif isinstance(change, StreamLeft):
            history.append(["left", change.stream.worker_id])


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[2]) if sys.argv[1] == "worker" else reader())
