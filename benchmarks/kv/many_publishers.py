"""Many streams' publishers, simulated: their frames over one PUB socket, from a process of its own.

    python -m benchmarks.kv.many_publishers NUM_WORKERS NUM_RANKS EVENTS_PER_STREAM

Prints its two endpoints, sends everything once a line arrives on standard input, and
answers replays until that ends.
"""

from __future__ import annotations

import sys
from array import array
from random import Random

from benchmarks.kv.workload import BLOCK_SIZE, INFO
from shepherd_events.codec import decode_request, encode_frame, encode_reply
from shepherd_events.control import ReplayReply, ReplayRequest, Status
from shepherd_events.control_server import ControlServer
from shepherd_events.events import BlockBatch, BlockEvent, BlocksStored, Frame, StreamId
from shepherd_events.replay_ring import ReplayRing
from shepherd_events.resident_set import ResidentSet
from shepherd_events.transports.protocol import topic_of
from shepherd_events.transports.zmq import ZmqPublisherTransport

EPOCH, RUN_BLOCKS, EVENTS_A_FRAME = 1, 8, 16
RING_BYTES = 64 << 20


def streams(num_workers: int, num_ranks: int) -> list[StreamId]:
    """Every rank of every worker."""
    return [StreamId(f"worker-{w}", rank) for w in range(num_workers) for rank in range(num_ranks)]


class _Simulated:
    """One stream, and the frames that it will send."""

    def __init__(self, stream: StreamId, num_events: int, random: Random) -> None:
        self.topic = topic_of(stream)
        self.head_seq = 1
        self._ring = ReplayRing(RING_BYTES)
        self._ring.append(1, 1, encode_frame(Frame(stream, EPOCH, 1, 1, INFO)))
        self.server = ControlServer(
            stream,
            EPOCH,
            self._ring,
            head_seq=lambda: self.head_seq,
            snapshot=lambda: (self.head_seq, ResidentSet().view()),
        )
        events = _events(num_events, random)
        bodies = [
            BlockBatch(tuple(events[at : at + EVENTS_A_FRAME]))
            for at in range(0, num_events, EVENTS_A_FRAME)
        ]
        self.payloads = [
            encode_frame(Frame(stream, EPOCH, seq, 1, body))
            for seq, body in enumerate(bodies, start=2)
        ]

    def take(self) -> bytes:
        """The next frame, which a replay can bring from now on."""
        payload = self.payloads[self.head_seq - 1]
        self.head_seq += 1
        self._ring.append(self.head_seq, self.head_seq, payload)
        return payload


def _events(count: int, random: Random) -> list[BlockEvent]:
    tokens = array("I", range(RUN_BLOCKS * BLOCK_SIZE))
    runs = (
        array("Q", (random.getrandbits(64) | 1 for _ in range(RUN_BLOCKS))) for _ in range(count)
    )
    return [BlocksStored(hashes, None, tokens, 0) for hashes in runs]


def main() -> None:
    """Serve."""
    num_workers, num_ranks, num_events = map(int, sys.argv[1:])
    random = Random(5)  # noqa: S311 - a workload, no secret
    simulated = {
        stream: _Simulated(stream, num_events, random) for stream in streams(num_workers, num_ranks)
    }

    def answer(payload: bytes) -> bytes:
        request = decode_request(payload)
        known = simulated.get(request.stream)
        if known is None or not isinstance(request, ReplayRequest):
            return encode_reply(ReplayReply(Status.DENIED, EPOCH))
        return known.server.answer(payload)

    transport = ZmqPublisherTransport(send_hwm_frames=0)
    endpoints = transport.bind(answer)
    print(endpoints.live, endpoints.control, flush=True)
    sys.stdin.readline()
    for _ in range(num_events // EVENTS_A_FRAME):
        for each in simulated.values():
            transport.send(each.topic, each.take())
    sys.stdin.readline()
    transport.close()


if __name__ == "__main__":
    main()
