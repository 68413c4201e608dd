"""Events and a publisher in vLLM's form, to measure ours beside."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Self

import msgspec
import zmq

RING_BATCHES = 10_000
_END = (-1).to_bytes(8, "big", signed=True)


class BlockStored(msgspec.Struct, tag=True, omit_defaults=True):
    """As vLLM tells a run of stored blocks."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    medium: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, omit_defaults=True):
    """As vLLM tells of removed blocks."""

    block_hashes: list[int]
    medium: str | None = None


class EventBatch(msgspec.Struct, array_like=True):
    """One message."""

    ts: float
    events: list[BlockStored | BlockRemoved]


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(EventBatch)


class MsgpackPublisher:
    """A queue, a thread, a PUB socket, and a ring served by a ROUTER in the same thread."""

    def __init__(self) -> None:
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._context.linger = 0
        self._queue: queue.Queue[EventBatch | None] = queue.Queue(100_000)
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=RING_BATCHES)
        self._live = self._context.socket(zmq.PUB)
        self._live.set_hwm(0)
        self._live.bind("tcp://127.0.0.1:*")
        self._replay = self._context.socket(zmq.ROUTER)
        self._replay.bind("tcp://127.0.0.1:*")
        self.live = self._live.getsockopt_string(zmq.LAST_ENDPOINT)
        self.replay = self._replay.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def publish(self, events: list[BlockStored | BlockRemoved]) -> None:
        """Tell a batch; waits while the queue is full."""
        self._queue.put(EventBatch(time.time(), events))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self._live.close(linger=0)
        self._replay.close(linger=0)
        self._context.term()

    def _run(self) -> None:
        seq = 0
        while True:
            if self._replay.poll(0):
                self._serve()
            try:
                batch = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if batch is None:
                return
            payload = ENCODER.encode(batch)
            self._live.send_multipart((b"kv", seq.to_bytes(8, "big"), payload))
            self._ring.append((seq, payload))
            seq += 1

    def _serve(self) -> None:
        client, _, start = self._replay.recv_multipart()
        for seq, payload in self._ring:
            if seq >= int.from_bytes(start, "big"):
                self._replay.send_multipart((client, b"", seq.to_bytes(8, "big"), payload))
        self._replay.send_multipart((client, b"", _END, b""))
