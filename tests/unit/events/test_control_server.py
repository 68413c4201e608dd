from __future__ import annotations

from dataclasses import replace

import pytest

from shepherd_events.codec import decode_reply, encode_request
from shepherd_events.control import (
    ControlReply,
    ControlRequest,
    ReplayReply,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Status,
)
from shepherd_events.control_server import ControlServer
from shepherd_events.events import BlocksStored, StreamId
from shepherd_events.replay_ring import ReplayRing
from shepherd_events.resident_set import ResidentSet
from stream_readers import STREAM, stored

EPOCH = 7
REPLAY = ReplayRequest(STREAM, EPOCH, 1, 1000)
SNAPSHOT = SnapshotRequest(STREAM, b"", 0, 1000)


class Served:
    """A control server beside the state that it answers from."""

    def __init__(self, capacity_bytes: int = 1000) -> None:
        self.ring = ReplayRing(capacity_bytes)
        self.residents = ResidentSet()
        self.head_seq = 0
        self.now = 0.0
        self.server = ControlServer(
            STREAM,
            EPOCH,
            self.ring,
            head_seq=lambda: self.head_seq,
            snapshot=lambda: (self.head_seq, self.residents.view()),
            clock=lambda: self.now,
        )

    def send(self, payload: bytes) -> None:
        self.head_seq += 1
        self.ring.append(self.head_seq, self.head_seq, payload)

    def ask(self, request: ControlRequest) -> ControlReply:
        return decode_reply(self.server.answer(encode_request(request)))

    def chunk(self, snapshot_id: bytes = b"", number: int = 0, max_bytes: int = 1) -> SnapshotReply:
        reply = self.ask(SnapshotRequest(STREAM, snapshot_id, number, max_bytes))
        assert isinstance(reply, SnapshotReply)
        return reply


def test_a_replay_is_paged_and_says_where_it_goes_on() -> None:
    served = Served()
    for payload in (b"aaa", b"bbb", b"ccc"):
        served.send(payload)

    assert served.ask(replace(REPLAY, max_bytes=6)) == ReplayReply(
        Status.OK, EPOCH, first_available=1, next_seq=3, head_seq=3, frames=(b"aaa", b"bbb")
    )
    assert served.ask(replace(REPLAY, from_seq=4)) == ReplayReply(Status.OK, EPOCH, 1, 4, 3)
    assert served.server.replays == 2


def test_a_number_that_is_reserved_but_not_sent_is_waited_for() -> None:
    served = Served()
    served.send(b"aaa")
    served.head_seq += 1

    assert served.ask(replace(REPLAY, from_seq=3)) == ReplayReply(Status.OK, EPOCH, 1, 3, 1)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (replace(REPLAY, from_seq=1), Status.COMPACTED),
        (replace(REPLAY, from_seq=9), Status.AHEAD),
        (replace(REPLAY, epoch=6), Status.WRONG_EPOCH),
        (replace(REPLAY, epoch=8), Status.WRONG_EPOCH),
        (replace(REPLAY, stream=StreamId("worker-2")), Status.DENIED),
        (replace(SNAPSHOT, stream=StreamId("worker-2")), Status.DENIED),
        (replace(SNAPSHOT, snapshot_id=b"unknown"), Status.COMPACTED),
    ],
)
def test_what_cannot_be_served_is_told_apart(request_: ControlRequest, status: Status) -> None:
    served = Served(capacity_bytes=6)
    for payload in (b"aaa", b"bbb", b"ccc"):
        served.send(payload)

    reply = served.ask(request_)

    assert (reply.status, reply.epoch) == (status, EPOCH)


def test_a_request_that_cannot_be_read_is_answered_all_the_same() -> None:
    served = Served()

    reply = decode_reply(served.server.answer(b"\xff"))

    assert reply == ReplayReply(Status.UNSUPPORTED, EPOCH)
    assert served.server.refused == 1


def test_an_empty_snapshot_is_one_last_chunk() -> None:
    assert Served().chunk() == SnapshotReply(
        Status.OK, EPOCH, snapshot_id=bytes(7) + b"\x01", as_of_seq=0, chunk=0, last=True
    )


def runs(*chunks: SnapshotReply) -> list[BlocksStored]:
    return [run for chunk in chunks for run in chunk.blocks]


def test_the_chunks_of_a_snapshot_are_those_of_its_beginning() -> None:
    served = Served()
    for number in (1, 2, 3):
        served.residents.apply(stored(number * 10))
    served.head_seq = 5

    first = served.chunk()
    served.residents.apply(stored(40))
    served.head_seq = 6
    second = served.chunk(first.snapshot_id, 1)
    third = served.chunk(first.snapshot_id, 2)

    assert [chunk.as_of_seq for chunk in (first, second, third)] == [5, 5, 5]
    assert [chunk.last for chunk in (first, second, third)] == [False, False, True]
    assert ResidentSet(runs(first, second, third)).hashes() == {10, 20, 30}
    assert third.tiers == ResidentSet(runs(first, second, third)).digest()
    assert served.server.snapshots == 1


def test_a_chunk_may_be_asked_for_again_but_not_one_from_before() -> None:
    served = Served()
    for number in (1, 2, 3):
        served.residents.apply(stored(number * 10))
    first = served.chunk()

    second = served.chunk(first.snapshot_id, 1)

    assert served.chunk(first.snapshot_id, 1) == second
    assert served.chunk(first.snapshot_id, 0).status is Status.COMPACTED
    assert served.chunk(first.snapshot_id, 3).status is Status.COMPACTED
    assert served.chunk(first.snapshot_id, 2).last


def test_chunks_are_as_large_as_the_reader_asks() -> None:
    served = Served()
    for number in range(1, 11):
        served.residents.apply(stored(number * 10))

    assert len(served.chunk(max_bytes=100_000).blocks) == 10
    assert len(served.chunk(max_bytes=2 * (32 + 8 + 8)).blocks) == 2


def test_more_snapshots_than_fit_wait_until_one_is_read_or_forgotten() -> None:
    served = Served()
    served.residents.apply(stored(10))
    served.residents.apply(stored(20))
    opened = [served.chunk() for _ in range(8)]

    assert served.chunk().status is Status.BUSY

    assert served.chunk(opened[3].snapshot_id, 1).last
    assert served.chunk().status is Status.OK
    assert served.chunk(opened[3].snapshot_id, 1).status is Status.COMPACTED
    assert served.chunk(opened[4].snapshot_id, 1).last

    served.now += 31.0
    assert served.chunk().status is Status.OK
    assert served.chunk(opened[5].snapshot_id, 1).status is Status.COMPACTED


def test_snapshots_that_nobody_reads_on_keep_others_waiting_for_a_second_only() -> None:
    served = Served()
    served.residents.apply(stored(10))
    served.residents.apply(stored(20))
    opened = [served.chunk() for _ in range(8)]
    served.now += 0.9
    assert served.chunk(opened[0].snapshot_id, 0) == opened[0]
    assert served.chunk().status is Status.BUSY

    served.now += 0.1

    assert served.chunk().status is Status.OK
    assert served.chunk(opened[0].snapshot_id, 1).last
    assert served.chunk(opened[1].snapshot_id, 1).status is Status.COMPACTED


def test_a_snapshot_that_has_no_bytes_is_busy_and_not_silent() -> None:
    served = Served()
    served.residents.apply(stored(0))

    assert served.chunk().status is Status.BUSY
