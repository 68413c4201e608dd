"""The conversations that the tiny chat model learns from, and those that it is judged by."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shepherd_events.events import Notice
from shepherd_memory.notice_text import NoticeTemplate
from shepherd_memory.notifier import topic_of
from shepherd_tiny_chat import SEARCH_MEMORY, search_query
from shepherd_tiny_chat.corpus import phrasing, recall, words
from shepherd_tiny_chat.corpus.conversations import Talk, conversation
from shepherd_tiny_chat.corpus.phrasing import Fact
from shepherd_tiny_chat.corpus.relations import RELATIONS, Choices
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE, SMALL_TALK, TOO_HARD
from shepherd_tiny_chat.evaluation.cases import (
    archived_case,
    small_talk_case,
    told_case,
    unknown_case,
)
from shepherd_tiny_chat.evaluation.scores import holds

PET = next(relation for relation in RELATIONS if relation.key == "pet")
seeds = st.integers(0, 2**32)
unhurried = settings(deadline=None, max_examples=50)


def choices() -> list[Choices]:
    found = [wordings for r in RELATIONS for wordings in (r.tell, r.ask)]
    found += [r.subject for r in RELATIONS if isinstance(r.subject, Choices)]
    return [*found, *(wordings for wordings, _ in SMALL_TALK), TOO_HARD]


def test_no_wording_and_no_subject_is_both_trained_and_held_out() -> None:
    assert [both for c in choices() if (both := set(c.train) & set(c.heldout))] == []
    assert all(c.train and c.heldout for c in choices())


@unhurried
@given(seeds)
def test_a_fact_of_one_split_has_no_value_of_the_other(seed: int) -> None:
    random = Random(seed)
    relation = random.choice(RELATIONS)

    assert not words.is_held_out(phrasing.new_value(random, "train", relation))
    assert words.is_held_out(phrasing.new_value(random, "heldout", relation))


@unhurried
@given(seeds)
def test_the_same_seed_makes_the_same_conversation(seed: int) -> None:
    assert conversation(Random(seed), "train") == conversation(Random(seed), "train")


@unhurried
@given(seeds)
def test_a_conversation_alternates_as_a_served_one_does(seed: int) -> None:
    roles = [message["role"] for message in conversation(Random(seed), "train").messages]

    follows = {
        "system": {"user", "tool"},
        "user": {"assistant"},
        "assistant": {"user", "tool"},
        "tool": {"user", "assistant", "tool"},
    }
    assert roles[-1] == "assistant"
    assert all(after in follows[before] for before, after in pairwise(roles))


@unhurried
@given(seeds)
def test_the_assistant_searches_only_where_a_notice_stands_and_a_search_is_offered(
    seed: int,
) -> None:
    talk = conversation(Random(seed), "train")
    noticed = False
    for message in talk.messages:
        noticed = noticed or message["content"].startswith("NOTICE: ")
        if "<tool_call>" in message["content"]:
            assert noticed
            assert search_query(message["content"])
            assert "search_memory" in {tool["function"]["name"] for tool in talk.tools}


@unhurried
@given(seeds)
def test_a_notice_says_what_the_memory_service_says(seed: int) -> None:
    random = Random(seed)
    relation = random.choice(RELATIONS)
    asked = phrasing.telling(random, "train", [phrasing.new_fact(random, "train", relation)])
    notice = Notice(
        notice_id="n",
        tenant="local",
        session_id="s",
        turns=(1,),
        archive_ids=("a",),
        topic=topic_of(asked),
        text="",
        created_unix_ns=0,
    )

    assert recall.notice(asked) == NoticeTemplate().render(notice)


def test_a_call_reads_back_as_its_query() -> None:
    call = recall.tool_call('name of "cat"')

    assert call == (
        '<tool_call>\n{"name": "search_memory", "arguments": {"query": "name of \\"cat\\""}}\n'
        "</tool_call>"
    )
    assert search_query(call) == 'name of "cat"'


@pytest.mark.parametrize(
    "answer",
    [
        "Your cat is called Bramble.",
        '<tool_call>{"name": "get_weather", "arguments": {"query": "x"}}</tool_call>',
        '<tool_call>{"name": "search_memory", "arguments": {"query": " "}}</tool_call>',
        '<tool_call>{"name": "search_memory", "arguments": ["x"]}</tool_call>',
        '<tool_call>{"name": "search_memory", "arguments": {"que',
        "<tool_call>[1]</tool_call>",
    ],
)
def test_what_is_no_search_has_no_query(answer: str) -> None:
    assert search_query(answer) is None


@unhurried
@given(seeds)
def test_a_held_out_case_holds_its_fact_exactly_where_it_should(seed: int) -> None:
    random = Random(seed)
    told, archived, unknown = told_case(random), archived_case(random), unknown_case(random)
    quiet = small_talk_case(random)

    assert quiet.fact is None
    for case in (told, archived, unknown):
        assert case.fact is not None
        assert case.messages[-1]["role"] == "user"
        assert not holds(case.fact.value, case.messages[-1]["content"])
    assert told.fact is not None
    assert any(holds(told.fact.value, message["content"]) for message in told.messages)
    assert archived.fact is not None
    assert archived.right
    assert any(
        holds(archived.fact.value, archived.archive[place].assistant) for place in archived.right
    )
    assert not any(message["content"].startswith("NOTICE") for message in unknown.messages)


def test_general_knowledge_is_one_full_sentence_for_each_question() -> None:
    questions, answers = zip(*KNOWLEDGE, strict=True)

    assert len(set(questions)) == len(set(answers)) == len(KNOWLEDGE) >= 30
    assert all(10 <= len(answer.split()) <= 25 for answer in answers)


def test_the_assistant_answers_in_the_words_of_which_a_search_query_is_made() -> None:
    fact = Fact(PET, "cat", "Bramble")

    assert fact.said == "your cat is called Bramble"
    assert fact.query == "name of cat"
    assert phrasing.corrected(fact) == "I have corrected that: your cat is called Bramble."


def test_the_shortest_definition_of_the_tool_is_one_that_openai_clients_send() -> None:
    assert SEARCH_MEMORY["type"] == "function"
    assert SEARCH_MEMORY["function"]["parameters"]["required"] == ["query"]
    assert json.loads(json.dumps(SEARCH_MEMORY)) == SEARCH_MEMORY


def test_importing_the_package_needs_neither_torch_nor_a_tokenizer() -> None:
    import subprocess
    import sys

    program = "import sys, shepherd_tiny_chat; print({'torch', 'tokenizers'} & {*sys.modules})"
    environment = {"PYTHONPATH": str(Path(__file__).parents[3] / "components")}
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )

    assert shown.stdout == "set()\n"


def test_tools_of_a_talk_are_what_a_template_takes() -> None:
    talks = [conversation(Random(seed), "train") for seed in range(50)]

    assert any(talk.tools for talk in talks)
    assert any(not talk.tools for talk in talks)
    assert all(isinstance(talk, Talk) for talk in talks)
