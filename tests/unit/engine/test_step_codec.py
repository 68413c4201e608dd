"""What the processes of one engine say to each other arrives as it was said."""

from __future__ import annotations

import socket
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.events import Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.parallel.follower_link import (
    Kind,
    Link,
    LinkClosedError,
    decode_records,
    encode_records,
)
from shepherd_worker.engine.embedded.parallel.step_codec import (
    decode_copies,
    decode_step,
    encode_copies,
    encode_step,
)

NUMBERS = st.integers(0, 2**32 - 1)
LISTS = st.lists(NUMBERS, max_size=5)
SEGMENTS = st.builds(
    Segment,
    token_ids=st.lists(NUMBERS, min_size=1, max_size=5).map(lambda ids: array("I", ids)),
    start=NUMBERS,
    block_ids=LISTS,
    num_logits=NUMBERS,
)
COPIES = st.builds(BlockCopy, st.sampled_from([Tier.HOST, Tier.DEVICE]), NUMBERS, NUMBERS)


@given(st.lists(SEGMENTS, max_size=4), LISTS)
def test_a_step_arrives_as_it_was_sent(segments: list[Segment], new: list[int]) -> None:
    assert decode_step(encode_step(segments, new)) == (segments, new)


@given(st.lists(COPIES, max_size=5))
def test_copies_arrive_in_their_order(copies: list[BlockCopy]) -> None:
    assert decode_copies(encode_copies(copies)) == copies


@given(st.lists(st.tuples(NUMBERS, st.binary(min_size=3, max_size=3)), max_size=4))
def test_records_arrive_with_their_blocks(rows: list[tuple[int, bytes]]) -> None:
    ids, records = [row[0] for row in rows], [row[1] for row in rows]
    got_ids, got = decode_records(encode_records(ids, records))

    assert (got_ids, [bytes(record) for record in got]) == (ids, records)


def test_the_bytes_of_a_step() -> None:
    segment = Segment(array("I", [7, 8]), 16, [5], 1)

    assert array("I", encode_step([segment], [5])).tolist() == [1, 5, 16, 1, 2, 1, 7, 8, 5]


def test_a_link_tells_that_the_other_side_has_gone() -> None:
    ends = socket.socketpair()
    ours, theirs = Link(ends[0]), Link(ends[1])
    ours.send(Kind.READ, b"abc")

    assert theirs.receive() == (Kind.READ, b"abc")

    ours.close()
    with pytest.raises(LinkClosedError):
        theirs.receive()
    with pytest.raises(LinkClosedError):
        theirs.send(Kind.RECORDS, bytes(10_000_000))
    theirs.close()


def test_an_answer_to_another_question_is_an_error() -> None:
    ends = socket.socketpair()
    ours, theirs = Link(ends[0]), Link(ends[1])
    ours.send(Kind.READY)

    with pytest.raises(RuntimeError, match="received READY, expected LOADED"):
        theirs.expect(Kind.LOADED)
    ours.close()
    theirs.close()
