"""Everybody who can tell the workload: ours, vLLM's form of a publisher, and Dynamo's own class.

Each prepares one call per event, so that only publishing is timed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import zmq
from dynamo.trtllm.publisher import ZmqKvEventPublisher

from benchmarks.kv.msgpack_peer import BlockRemoved, BlockStored, MsgpackPublisher
from benchmarks.kv.workload import BLOCK_SIZE, INFO, STREAM, WARMING_UP, Workload
from shepherd_events.events import BlocksRemoved
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.zmq import ZmqPublisherTransport

TOPIC = "kv"
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Teller:
    """A publisher that listens already."""

    wire: str
    """How a listener has to decode: `ours` or `msgpack`."""
    live: str
    warm_up: Call
    calls: list[Call]
    """One event each."""


@contextmanager
def ours(work: Workload) -> Iterator[Teller]:
    """Our publisher over ZMQ."""
    transport = ZmqPublisherTransport(send_hwm_frames=0)
    publisher = KvEventPublisher(
        STREAM, INFO, transport, max_queued_events=2 * len(work.ours), ring_bytes=1 << 30
    )
    publisher.start()
    warm_up = partial(publisher.publish, [BlocksRemoved(array("Q", [WARMING_UP]))])
    calls: list[Call] = [partial(publisher.publish, [event]) for event in work.ours]
    try:
        yield Teller("ours", publisher.address.live, warm_up, calls)
    finally:
        publisher.close("done")


@contextmanager
def vllm_form(work: Workload) -> Iterator[Teller]:
    """A queue and a thread that sends what vLLM sends."""
    with MsgpackPublisher() as publisher:
        warm_up = partial(publisher.publish, [BlockRemoved([WARMING_UP])])
        calls: list[Call] = [partial(publisher.publish, [event]) for event in work.peers]
        yield Teller("msgpack", publisher.live, warm_up, calls)


@contextmanager
def dynamo(work: Workload) -> Iterator[Teller]:
    """Dynamo's class as it is, but for its socket, which may keep what is not sent yet."""
    publisher = ZmqKvEventPublisher("tcp://127.0.0.1:*", BLOCK_SIZE, TOPIC)
    publisher.socket.close()
    publisher.socket = publisher.ctx.socket(zmq.PUB)
    publisher.socket.set_hwm(0)
    publisher.socket.bind("tcp://127.0.0.1:*")
    live = publisher.socket.getsockopt_string(zmq.LAST_ENDPOINT)
    try:
        calls = [_dynamo_call(publisher, event) for event in work.peers]
        yield Teller("msgpack", live, partial(publisher.publish_removed, [WARMING_UP]), calls)
    finally:
        publisher.shutdown()


def _dynamo_call(publisher: ZmqKvEventPublisher, event: BlockStored | BlockRemoved) -> Call:
    if isinstance(event, BlockRemoved):
        return partial(publisher.publish_removed, event.block_hashes)
    return partial(
        publisher.publish_stored,
        event.token_ids,
        [BLOCK_SIZE] * len(event.block_hashes),
        event.block_hashes,
        event.parent_block_hash,
    )
