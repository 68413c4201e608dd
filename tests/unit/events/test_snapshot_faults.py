"""Row 11: what may go wrong while a snapshot is read, chunk by chunk."""

from __future__ import annotations

from shepherd_events.codec import decode_reply
from shepherd_events.control import SnapshotReply
from shepherd_events.subscriber import ResetReason
from stream_readers import INFO, removed, stored
from stream_source import EPOCH, PATIENCE, Source, started


def with_many_chunks() -> Source:
    """A source whose first frames are gone, and whose snapshot takes many pages."""
    source = started(ring_bytes=1)
    for number in range(10, 60):
        source.tell(stored(10 * number, 10 * number + 1))
    return source


async def test_row_11_a_publisher_that_restarts_between_two_chunks_is_believed_anew() -> None:
    source = with_many_chunks()
    chunks: list[int] = []

    def restart_after_the_second(payload: bytes) -> bytes:
        reply = decode_reply(payload)
        if isinstance(reply, SnapshotReply) and reply.epoch == EPOCH:
            chunks.append(reply.chunk)
            if len(chunks) == 2:
                source.ring_bytes = 100_000
                source.begin(EPOCH + 1)
                source.send(INFO)
                source.tell(stored(7))
        return payload

    source.alter = restart_after_the_second
    async with source.reader(patience=PATIENCE) as reader:
        await reader.read_until(lambda: reader.position.epoch == EPOCH + 1)
        await reader.read_up_to(2)

        assert chunks == [0, 1], "the rest belonged to nobody any more"
        assert [reset.reason for reset in reader.resets] == [ResetReason.RESTARTED]
        assert reader.residents.hashes() == {7}


async def test_row_11_what_happens_while_the_chunks_are_read_comes_after_them() -> None:
    source = with_many_chunks()
    source.ring_bytes = 100_000
    source.ring.capacity_bytes = 100_000
    before = set(source.residents.hashes())
    at_the_beginning = source.head_seq
    asked = 0

    def go_on(payload: bytes) -> bytes:
        nonlocal asked
        if isinstance(decode_reply(payload), SnapshotReply):
            asked += 1
            source.tell(removed(10 * (asked + 9)), live=False)
            source.tell(stored(2_000 + asked), live=False)
        return payload

    source.alter = go_on
    async with source.reader() as reader:
        await reader.read_until(lambda: bool(reader.resets))
        (reset,) = reader.resets
        assert (reset.as_of_seq, reader.residents.hashes()) == (at_the_beginning, before)
        source.alter = lambda payload: payload
        await reader.read_up_to(source.head_seq)

        assert asked > 3
        assert reader.residents.digest() == source.residents.digest()
        assert reader.numbers == list(range(at_the_beginning + 1, source.head_seq + 1))
