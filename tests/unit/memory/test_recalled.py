"""What memory put into a conversation is never taken for what was said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_memory.block_index import Chain
from shepherd_memory.fake import SpelledTranscript, spell
from shepherd_memory.recalled import answers_memory, called_tools, quoted, without_recalled
from shepherd_memory.turns import Said, split_turns

CALLS = {
    "json": '<tool_call>\n{"name": "search_memory", "arguments": {"query": "cats"}}\n</tool_call>',
    "llama": '{"name": "search_memory", "parameters": {"query": "cats"}}',
    "python": "[{'name': 'search_memory', 'arguments': {'query': 'cats'}}]",
    "mistral": '[TOOL_CALLS][{"name": "search_memory", "arguments": {}, "id": "call00001"}]',
    "tekken": '[TOOL_CALLS]search_memory[ARGS]{"query": "cats"}',
    "xml": "<tool_call><function=search_memory><parameter=query>cats</parameter></function>",
    "deepseek": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>search_memory\n```json\n{}```",  # noqa: RUF001  its own bars
    "harmony": " to=functions.search_memory<|channel|>commentary json<|message|>{}",
}


def said(*messages: tuple[str, str]) -> list[tuple[Said, ...]]:
    read = SpelledTranscript().read(spell(messages))
    return [turn.messages for turn in split_turns(read, Chain(*_NO_BLOCKS))]


_NO_BLOCKS = (spell([]), spell([]), 0, True)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_result_of_a_search_is_left_out_however_the_call_is_spelled(call: str) -> None:
    turns = said(
        ("user", "what of cats?"),
        ("assistant", call),
        ("tool", "User: Where do cats sleep?\nAssistant: Everywhere."),
        ("assistant", "They sleep everywhere."),
    )

    assert called_tools(call) == ["search_memory"]
    assert turns == [
        (
            Said("user", "what of cats?"),
            Said("assistant", call),
            Said("assistant", "They sleep everywhere."),
        )
    ]


def test_results_belong_to_the_calls_in_their_order() -> None:
    calls = "".join(
        f'{{"name": "{name}", "arguments": {{"name": "x"}}}}'
        for name in ("weather", "search_memory", "time")
    )
    turns = said(
        ("user", "q"), ("assistant", calls), ("tool", "wet"), ("tool", "old"), ("tool", "9")
    )

    assert [each.text for each in turns[0][2:]] == ["wet", "9"]


@pytest.mark.parametrize(
    ("names", "results", "ours"),
    [
        (["search_memory"], 2, (True, True)),
        (["search_memory", "weather"], 1, (False,)),
        (["set_fact"], 1, (False,)),
        ([], 1, (False,)),
        (["get_fact", "weather"], 2, (True, False)),
    ],
)
def test_a_result_is_memorys_only_where_that_is_certain(
    names: list[str], results: int, ours: tuple[bool, ...]
) -> None:
    calls = "".join(f'{{"name": "{name}", "arguments": {{}}}}' for name in names)

    assert answers_memory(calls, results) == ours


def test_the_result_of_another_tool_keeps_what_it_says_around_a_quotation() -> None:
    turns = said(("user", "q"), ("assistant", "c"), ("tool", f"before\n{quoted('old')}\nafter"))

    assert turns[0][-1] == Said("tool", "before\nafter")


def test_injected_context_leaves_the_question_as_it_was() -> None:
    plain = said(("user", "what of cats?"))

    assert said(("user", f"what of cats?\n\n{quoted('User: a | b')}")) == plain
    assert said(("user", f"{quoted('x')}\n\nwhat of cats?")) == plain
    assert said(("user", "what of cats?\n<recalled_memory>\ncut o")) == plain


def test_a_message_that_is_nothing_but_recalled_is_no_turn() -> None:
    assert said(("user", "a"), ("user", quoted("b"))) == [(Said("user", "a"),)]


def test_what_an_assistant_quotes_is_its_own() -> None:
    assert said(("user", "a"), ("assistant", quoted("b")))[0][1].text == quoted("b")


@given(st.text("<>/recald_moy \n", max_size=40) | st.just(quoted(quoted("x"))), st.text("ab "))
def test_nothing_that_is_quoted_ends_the_quotation(text: str, question: str) -> None:
    assert without_recalled(f"{question}\n{quoted(text)}") == question.strip()
