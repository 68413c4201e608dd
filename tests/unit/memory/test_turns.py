"""Messages become turns, word for word, and each knows its blocks."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_memory.block_index import Chain
from shepherd_memory.fake import SpelledTranscript, spell
from shepherd_memory.turns import (
    Said,
    Turn,
    archive_id_of,
    continues,
    digest_of,
    split_turns,
)

NOTICE = (
    'NOTICE: Conversation regarding "cats" has been moved to long-term memory. '
    "Use search_memory to recall it."
)


def turns_of(said: list[tuple[str, str]], block_size: int = 4) -> tuple[Turn, ...]:
    token_ids = spell(said)
    num_blocks = len(token_ids) // block_size
    chain = Chain(
        array("Q", range(100, 100 + num_blocks)),
        token_ids[: num_blocks * block_size],
        block_size,
        complete=True,
    )
    return split_turns(SpelledTranscript().read(token_ids), chain)


def test_a_turn_is_a_user_message_with_everything_up_to_the_next() -> None:
    turns = turns_of(
        [
            ("system", "be kind"),
            ("user", "hi"),
            ("assistant", "hello"),
            ("user", "weather?"),
            ("assistant", "call"),
            ("tool", "rain"),
            ("assistant", "It rains."),
        ]
    )

    assert [turn.messages for turn in turns] == [
        (Said("user", "hi"), Said("assistant", "hello")),
        (
            Said("user", "weather?"),
            Said("assistant", "call"),
            Said("tool", "rain"),
            Said("assistant", "It rains."),
        ),
    ]
    assert [turn.question for turn in turns] == ["hi", "weather?"]


def test_system_messages_belong_to_no_turn_even_in_the_middle() -> None:
    turns = turns_of([("user", "a"), ("developer", "secret"), ("assistant", "b")])

    assert [turn.messages for turn in turns] == [(Said("user", "a"), Said("assistant", "b"))]


def test_a_greeting_belongs_to_the_first_turn() -> None:
    turns = turns_of([("assistant", "Welcome!"), ("user", "hi"), ("user", "there")])

    assert [turn.messages for turn in turns] == [
        (Said("assistant", "Welcome!"), Said("user", "hi")),
        (Said("user", "there"),),
    ]


def test_a_block_that_two_turns_share_belongs_to_both() -> None:
    # tokens:  S x x x | U a A b | b U c A | d d d d | d      ("b" has two, "d" has five)
    turns = turns_of(
        [
            ("system", "xxx"),
            ("user", "a"),
            ("assistant", "bb"),
            ("user", "c"),
            ("assistant", "ddddd"),
        ]
    )

    assert [list(turn.block_hashes) for turn in turns] == [[101, 102], [102, 103]]
    assert [(turn.start, turn.end) for turn in turns] == [(4, 9), (9, 17)]


def test_a_turn_in_no_full_block_has_no_blocks() -> None:
    turns = turns_of([("user", "abc"), ("user", "d")])

    assert [list(turn.block_hashes) for turn in turns] == [[100], []]


def test_the_empty_answer_behind_a_generation_prompt_is_left_out() -> None:
    assert turns_of([("user", "a"), ("assistant", "")])[0].messages == (Said("user", "a"),)


def test_our_own_notice_is_not_what_the_user_said() -> None:
    turns = turns_of([("user", "a"), ("user", NOTICE), ("user", f"{NOTICE}\nand b?")])

    assert [turn.messages for turn in turns] == [
        (Said("user", "a"),),
        (Said("user", "and b?"),),
    ]


def test_a_sentence_that_only_resembles_a_notice_is_kept() -> None:
    said = 'He wrote: NOTICE: Conversation regarding "x" has been lost.'

    assert turns_of([("user", said)])[0].question == said


def test_composed_and_decomposed_text_is_one_turn() -> None:
    assert digest_of([Said("user", "caf\u00e9")]) == digest_of([Said("user", "cafe\u0301")])


def test_tool_messages_do_not_enter_the_digest_and_words_do_not_run_together() -> None:
    assert digest_of([Said("user", "a"), Said("tool", "x")]) == digest_of([Said("user", "a")])
    assert digest_of([Said("user", "ab")]) != digest_of([Said("user", "a"), Said("user", "b")])


def test_the_archive_id_is_the_same_in_every_version() -> None:
    assert (
        archive_id_of("local", "s", 1, "00")
        == "1b20644caf158d4e3a03c91854923962004890f387f8ef9f243e3c5d80b8dfee"
    )


@given(st.lists(st.text(max_size=3), min_size=4, max_size=4).map(tuple))
def test_names_that_concatenate_equally_have_different_ids(names: tuple[str, ...]) -> None:
    tenant, session, other_tenant, other_session = names

    same = archive_id_of(tenant, session, 1, "") == archive_id_of(
        other_tenant, other_session, 1, ""
    )

    assert same == ((tenant, session) == (other_tenant, other_session))


@pytest.mark.parametrize(
    ("longer", "shorter", "expected"),
    [
        ("ab", "ab", True),
        ("abcd", "ab", True),
        ("ab", "abcd", False),
        ("ax", "ab", False),
    ],
)
def test_a_longer_version_continues_a_shorter_one(
    longer: str, shorter: str, expected: bool
) -> None:
    question = Said("user", "q")

    assert (
        continues([question, Said("assistant", longer)], [question, Said("assistant", shorter)])
        is expected
    )


def test_more_messages_continue_fewer_and_never_the_other_way() -> None:
    call = [Said("user", "q"), Said("assistant", "call")]
    answered = [*call, Said("tool", "42"), Said("assistant", "It is 42.")]

    assert continues(answered, call)
    assert not continues(call, answered)
    assert not continues(answered, [])


WORDS = st.text("abc ", max_size=6)
SAID = st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), WORDS)


@given(st.lists(SAID, max_size=8), st.integers(1, 5))
def test_nothing_but_system_messages_is_left_out(
    said: list[tuple[str, str]], block_size: int
) -> None:
    turns = turns_of(said, block_size)

    kept = [(each.role, each.text) for turn in turns for each in turn.messages]
    expected = [
        (role, text) for role, text in said if role == "user" or (role != "system" and text.strip())
    ]
    assert kept == expected


@given(st.lists(SAID, max_size=8), st.integers(1, 5))
def test_the_blocks_of_a_turn_are_those_that_hold_its_tokens(
    said: list[tuple[str, str]], block_size: int
) -> None:
    said = [(role, text) for role, text in said if role != "system" and text.strip()]
    num_blocks = len(spell(said)) // block_size

    for turn in turns_of(said, block_size):
        expected = {100 + token // block_size for token in range(turn.start, turn.end)}
        assert set(turn.block_hashes) == expected & set(range(100, 100 + num_blocks))
