"""What a session is told, and how waiting for it ends."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.block_index import Chain
from shepherd_memory.eviction import Placement
from shepherd_memory.fake import SpelledTranscript, spell
from shepherd_memory.notifier import (
    MAX_TOPIC_CHARS,
    MAX_TOPIC_WORDS,
    Bell,
    notice_of,
    rung_within,
    topic_of,
)
from shepherd_memory.turns import Said, split_turns

TURN = StoredTurn(
    archive_id="id2",
    session="s",
    ordinal=2,
    digest="",
    messages=(Said("user", "Why is the sky blue?"), Said("assistant", "Rayleigh.")),
    placement=Placement(StreamId("w"), Position(1, 1), 1, array("Q")),
    request_id="r",
    started_unix_ns=1,
)


def test_a_notice_tells_of_all_its_turns_in_their_order() -> None:
    earlier = replace(TURN, archive_id="id9", ordinal=1, messages=(Said("user", "Hello"),))

    notice = notice_of("t", [TURN, earlier], 5)

    assert notice.text == (
        'NOTICE: Conversation regarding "Hello" has been moved to long-term memory. '
        "Use search_memory to recall it."
    )
    assert (notice.tenant, notice.session_id, notice.created_unix_ns) == ("t", "s", 5)
    assert (notice.turns, notice.archive_ids) == ((1, 2), ("id9", "id2"))


def test_a_notices_id_depends_on_its_turns_alone() -> None:
    other = replace(TURN, archive_id="id3", ordinal=3)

    assert notice_of("t", [TURN, other], 5).notice_id == notice_of("t", [other, TURN], 6).notice_id
    assert notice_of("t", [TURN], 5).notice_id != notice_of("t", [other], 5).notice_id
    # printf 'id2' | sha256sum
    assert (
        notice_of("t", [TURN], 5).notice_id
        == "b459afddb3a09621ee29b78b3968e566d7fb0001d96395d54030eb703b0337a9"
    )


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("Why is the sky blue?", "Why is the sky blue?"),
        ("one two three four five six seven eight nine", "one two three four five six seven eight"),
        ('say "hi" to `Bob` and \u201cEve\u201d', "say hi to Bob and Eve"),
        ("a\n\n\tb\x00c\u2028d\u202ee", "a b c d e"),
        ("x" * 500, "x" * MAX_TOPIC_CHARS),
        ("", "an earlier part of this conversation"),
        (' "" \n', "an earlier part of this conversation"),
        ("na\u00efve \u732b", "na\u00efve \u732b"),
    ],
)
def test_a_topic_is_the_questions_first_words_on_one_line(question: str, topic: str) -> None:
    assert topic_of(question) == topic


@given(st.text())
def test_no_question_breaks_out_of_its_quotation(question: str) -> None:
    topic = topic_of(question)

    assert topic.isprintable()
    assert '"' not in topic
    assert 0 < len(topic) <= MAX_TOPIC_CHARS
    assert len(topic.split()) <= MAX_TOPIC_WORDS


@given(st.text())
def test_every_notice_is_recognised_when_it_comes_back_in_a_prompt(question: str) -> None:
    turn = replace(TURN, messages=(Said("user", question),))
    said = [("user", notice_of("t", [turn], 5).text + "\nAnd now?")]
    token_ids = spell(said)

    (found,) = split_turns(
        SpelledTranscript().read(token_ids), Chain(array("Q"), array("I"), 0, complete=True)
    )

    assert found.question == "And now?"


async def test_what_rings_between_ticket_and_wait_is_not_missed() -> None:
    bell = Bell()
    ticket = bell.ticket()
    bell.ring()

    assert await rung_within(ticket, 5)
    assert not await rung_within(bell.ticket(), 0.01)


async def test_closing_wakes_everybody_for_good() -> None:
    bell = Bell()
    waiting = [asyncio.create_task(rung_within(bell.ticket(), 30)) for _ in range(3)]
    await asyncio.sleep(0)

    bell.close()

    assert await asyncio.gather(*waiting) == [True, True, True]
    assert bell.closed
