"""Row 13, bits: nothing that was altered on its way is ever taken for what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_strategies import frames
from golden_messages import FRAMES, REPLIES, golden_bytes
from shepherd_events.codec import decode_frame, decode_reply, encode_frame, encode_reply
from shepherd_events.codec.checksums import SIZE_BYTES, with_checksum
from shepherd_events.control import ReplayReply, Status
from shepherd_events.errors import ChecksumError, CodecError, UnknownFeaturesError
from shepherd_events.events import BlockBatch, Frame, Goodbye, StreamId
from shepherd_events.frame_intake import FrameIntake
from shepherd_events.subscriber import ResetReason, StreamState
from shepherd_events.transports.memory import flip_bit
from stream_readers import stored, turn
from stream_source import EPOCH, started


def flipped(payload: bytes) -> Iterator[bytes]:
    """The payload with each of its bits flipped, one at a time."""
    return (flip_bit(payload, bit) for bit in range(8 * len(payload)))


@pytest.mark.parametrize("name", FRAMES)
def test_no_flipped_bit_of_a_frame_gets_through(name: str) -> None:
    whole = golden_bytes(name)
    intake = FrameIntake(StreamId("worker-a", 1), None)
    assert intake.read(whole) is not None

    assert [intake.read(altered) for altered in flipped(whole)] == [None] * (8 * len(whole))
    assert intake.num_refused == 8 * len(whole)
    assert intake.num_corrupt > intake.num_refused / 2, "the rest was no protobuf either"


@pytest.mark.parametrize("name", REPLIES)
def test_no_flipped_bit_of_a_reply_changes_what_it_says(name: str) -> None:
    told = decode_reply(golden_bytes(name))
    for altered in flipped(golden_bytes(name)):
        try:
            assert decode_reply(altered) == told
        except CodecError:
            continue


@given(frames(), st.data())
def test_whatever_becomes_of_a_frame_is_refused_or_still_what_was_sent(
    frame: Frame, data: st.DataObject
) -> None:
    whole = encode_frame(frame)
    intake = FrameIntake(frame.stream, None)
    intake.read(whole)
    payload = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(payload)))
        stop = data.draw(st.integers(start, min(start + 8, len(payload))))
        payload[start:stop] = data.draw(st.binary(max_size=8))

    read = intake.read(bytes(payload))

    assert read is None or bytes(payload) == whole


def test_a_frame_without_a_checksum_is_read_until_one_of_its_epoch_has_one() -> None:
    first, second = (Frame(StreamId("worker-1"), EPOCH, seq, 1, Goodbye("done")) for seq in (2, 3))
    bare = [encode_frame(frame)[:-SIZE_BYTES] for frame in (first, second)]
    intake = FrameIntake(StreamId("worker-1"), None)

    assert intake.read(bare[0]) == first
    assert intake.read(encode_frame(first)) == first
    assert intake.read(bare[1]) is None
    assert (intake.num_refused, intake.num_corrupt) == (1, 1)


def test_a_worker_that_comes_back_in_a_version_without_checksums_is_read() -> None:
    intake = FrameIntake(StreamId("worker-1"), None)
    intake.read(encode_frame(Frame(StreamId("worker-1"), EPOCH, 2, 1, Goodbye("done"))))
    later = Frame(StreamId("worker-1"), EPOCH + 1, 2, 1, Goodbye("done"))

    assert intake.read(encode_frame(later)[:-SIZE_BYTES]) == later


def test_the_checksum_is_told_apart_from_what_needs_another_reader() -> None:
    whole = encode_frame(Frame(StreamId("w"), EPOCH, 2, 1, Goodbye("done")))
    features = b"\x30\x01"

    with pytest.raises(
        ChecksumError, match=r"checksum: 0x[0-9a-f]{8}, the message was written with"
    ):
        decode_frame(whole[:-SIZE_BYTES] + features + whole[-SIZE_BYTES:])
    with pytest.raises(UnknownFeaturesError):
        decode_frame(with_checksum(whole[:-SIZE_BYTES], features))


def test_a_checksum_that_is_not_the_end_of_its_message_is_refused() -> None:
    whole = encode_frame(Frame(StreamId("w"), EPOCH, 2, 1, Goodbye("done")))

    with pytest.raises(ChecksumError):
        decode_frame(whole + b"\xa2\x06\x03new")


async def test_an_altered_frame_is_counted_and_asked_for_again() -> None:
    source = started()
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.send(turn(1), live=False)
        source.send_live(flip_bit(source.payload(turn(1), 4), 100))
        await reader.read_until(lambda: reader.subscription.counters.corrupt == 1)
        await reader.read_up_to(4)

        assert reader.numbers == [1, 2, 3, 4]
        assert reader.subscription.counters.decode_errors == 1


async def test_a_frame_that_was_altered_in_the_publishers_memory_makes_the_reader_stale() -> None:
    source = started()
    states: list[StreamState] = []
    async with source.reader() as reader:
        await reader.read_up_to(3)
        source.residents.apply(stored(4, parent=3))
        source.head_seq = 4
        batch = BlockBatch((stored(4, parent=3),))
        source.ring.append(4, 4, flip_bit(source.payload(batch, 4), 300))
        source.heartbeat()

        def noted(reply: bytes) -> bytes:
            states.append(reader.subscription.state)
            return reply

        source.alter = noted
        await reader.read_up_to(4)

        assert [reset.reason for reset in reader.resets] == [ResetReason.UNDECODABLE]
        assert reader.residents.hashes() == {1, 2, 3, 4}
        assert StreamState.STALE in states
        assert reader.subscription.counters.corrupt == 1


@pytest.mark.parametrize("alter", [lambda reply: flip_bit(reply, 40), lambda reply: reply[:-1]])
async def test_an_altered_reply_is_a_failed_request(alter: Callable[[bytes], bytes]) -> None:
    source = started()
    source.alter = alter
    async with source.reader() as reader:
        await reader.read_until(lambda: reader.subscription.counters.failed_requests > 1)
        assert reader.frames == []
        assert reader.subscription.state is StreamState.STALE
        source.alter = lambda reply: reply
        await reader.read_up_to(3)

        assert reader.numbers == [1, 2, 3]


def test_the_checksum_of_a_reply_covers_the_frames_in_it() -> None:
    reply = ReplayReply(Status.OK, EPOCH, 1, 2, 1, 0, (b"frame",))
    payload = encode_reply(reply)

    with pytest.raises(ChecksumError):
        decode_reply(payload.replace(b"frame", b"flame"))


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 12_288, 70_001])
def test_the_checksum_is_that_of_the_whole_message_whatever_its_size(size: int) -> None:
    message = bytes(number * 7 % 251 for number in range(size))

    written = with_checksum(message[: size // 3], message[size // 3 :])

    assert written[:size] == message
    assert written[size + 2 :] == crc32(message).to_bytes(4, "little")
