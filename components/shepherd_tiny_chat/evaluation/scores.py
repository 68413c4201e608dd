"""Asks a model held-out questions and counts the right answers.

    skill          the conversation                     right
    -----          ----------------                     -----
    in_context     holds the fact                       no call, and the value is in the answer
    call           a notice stands for the fact         a `search_memory` call whose query finds the
                                                        exchange among the first three
    from_result    and the search's result follows      the value is in the answer
    whole_path     as `call`, the model's own query     the value is in the answer
    no_call        small talk, an untold fact, a fact   no call
                   that the conversation holds
    not_found      the result holds nothing of it       says so

What finds an exchange is passed in: the memory service's own search.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from shepherd_tiny_chat.corpus import phrasing, recall
from shepherd_tiny_chat.corpus.recall import Exchange
from shepherd_tiny_chat.evaluation.cases import (
    Case,
    archived_case,
    small_talk_case,
    told_case,
    unknown_case,
)
from shepherd_tiny_chat.search_tool import search_query

Answer = Callable[[Sequence[Case]], list[str]]
"""The model's next message in each conversation."""
Search = Callable[[Sequence[Exchange], str, int], list[int]]
"""The places of the at most `k` exchanges that fit a query best, best first."""

FOUND_WITHIN = 3
BARS = {"in_context": 0.95, "call": 0.95, "from_result": 0.90, "no_call": 0.95}
"""The least share of right answers that a model may ship with."""


@dataclass(frozen=True, slots=True)
class Score:
    """How often one skill was right."""

    right: int
    asked: int
    wrong: tuple[str, ...] = ()
    """Some of the wrong answers, for a person to look at."""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.right / self.asked


def evaluate(answer: Answer, search: Search, *, cases: int, seed: int) -> dict[str, Score]:
    """The score of each skill over so many cases; the same seed asks the same."""
    random = Random(f"{seed}/heldout")  # noqa: S311  no secret
    told = [told_case(random) for _ in range(cases)]
    archived = [archived_case(random) for _ in range(cases)]
    quiet = [small_talk_case(random) for _ in range(cases // 2)]
    unknown = [unknown_case(random) for _ in range(cases // 2)]
    answers = answer(told)
    calls = answer(archived)
    called = [search_query(text) or "" for text in calls]
    found = [
        search(c.archive, query, FOUND_WITHIN) for c, query in zip(archived, called, strict=True)
    ]
    silent = [*quiet, *unknown, *told]
    silence = [*answer([*quiet, *unknown]), *answers]
    results = [_with_result(random, case, search) for case in archived]
    recalled = [
        _followed(random, case, query, places) if query else case
        for case, query, places in zip(archived, called, found, strict=True)
    ]
    missing = [_with_nothing(random, case) for case in archived[: cases // 2]]
    return {
        "in_context": _score(told, answers, _holds_value),
        "call": _score(
            archived,
            [
                f"{text} -> {sorted(case.right)} in {places}"
                for case, text, places in zip(archived, calls, found, strict=True)
            ],
            lambda case, text: bool(case.right & set(json.loads(text.rsplit(" in ", 1)[1]))),
        ),
        "from_result": _score(results, answer(results), _holds_value),
        "whole_path": _score(recalled, answer(recalled), _holds_value),
        "no_call": _score(silent, silence, lambda _, text: "<tool_call>" not in text),
        "not_found": _score(missing, answer(missing), lambda _, text: phrasing.NOT_FOUND in text),
    }


def failures(scores: dict[str, Score]) -> list[str]:
    """The skills that miss their bar."""
    return [skill for skill, bar in BARS.items() if scores[skill].share < bar]


def holds(value: str, text: str) -> bool:
    """Whether a text says a value, as a whole word, in whatever case."""
    return re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", text.lower()) is not None


def _score(
    cases: Sequence[Case], answers: Sequence[str], right: Callable[[Case, str], bool]
) -> Score:
    wrong = [
        f"{case.messages[-1]['content']!r}, {case.fact and case.fact.said!r}: {text!r}"
        for case, text in zip(cases, answers, strict=True)
        if not right(case, text)
    ]
    return Score(len(cases) - len(wrong), len(cases), tuple(wrong[:20]))


def _holds_value(case: Case, text: str) -> bool:
    return case.fact is not None and "<tool_call>" not in text and holds(case.fact.value, text)


def _with_result(random: Random, case: Case, search: Search) -> Case:
    """The case with a call as it is taught, and a result that holds the fact."""
    query = case.fact.query if case.fact else ""
    places = search(case.archive, query, FOUND_WITHIN)
    if not case.right & set(places):
        places = [*places[: FOUND_WITHIN - 1], min(case.right)]
    return _followed(random, case, query, places)


def _with_nothing(random: Random, case: Case) -> Case:
    """The case with a result that holds anything but the fact."""
    query = case.fact.query if case.fact else ""
    others = [place for place in range(len(case.archive)) if place not in case.right]
    return _followed(random, case, query, random.sample(others, random.randint(0, FOUND_WITHIN)))


def _followed(random: Random, case: Case, query: str, places: Sequence[int]) -> Case:
    found = [case.archive[place] for place in places]
    return case.followed_by(
        {"role": "assistant", "content": recall.tool_call(query)},
        {"role": "tool", "content": recall.tool_result(random, query, found)},
    )
