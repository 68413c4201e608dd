"""When a sequence ends, and what is said to have ended it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engine_calls import Answer, ask, ask_all, config, make_engine, request, started
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.embedded.stop_strings import StopStrings
from shepherd_worker.engine.fake import FakeEngine, FakeRunner
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.request import FinishReason
from tiny_models import IM_END, tiny_model

PROMPT = [5, 6, 7]
TOKENIZER: Tokenizer = Tokenizer.from_file(str(tiny_model("qwen2") / "tokenizer.json"))
EOS: int = TOKENIZER.get_vocab()[IM_END]


class ScriptedRunner(FakeRunner):
    """Says what it is told to, whatever is asked."""

    def __init__(self, limits: EngineConfig, script: list[int]) -> None:
        super().__init__(limits)
        self._script = script

    def _next_token(self, sequence: Sequence, num_ahead: int) -> int:
        return self._script[sequence.num_output + num_ahead]


@asynccontextmanager
async def saying(script: list[int], **limits: Any) -> AsyncIterator[EmbeddedEngine]:
    sizes = config(**limits)
    engine = EmbeddedEngine(sizes, ScriptedRunner(sizes, script), name="fake")
    async with started(engine):
        yield engine


def tokens_of(*pieces: str) -> list[int]:
    """Every piece in tokens of its own."""
    ids: list[int] = []
    for piece in pieces:
        ids += TOKENIZER.encode(piece, add_special_tokens=False).ids
    return ids


async def answer_to(
    script: list[int], max_tokens: int | None = None, **stops: Any
) -> tuple[int, FinishReason | None, str | int | None]:
    """How many tokens of the script were said, and why no more."""
    async with saying([*script, *[9] * 40], max_seq_len=40) as engine:
        answer: Answer = await ask(engine, request(PROMPT, max_tokens, stops=stops))
    assert answer.token_ids == [*script, *[9] * 40][: len(answer.token_ids)]
    return len(answer.token_ids), answer.finish_reason, answer.stop_reason


@pytest.mark.parametrize(
    ("conditions", "ending"),
    [
        ({"ignore_eos": False}, (3, FinishReason.EOS, None)),
        ({"ignore_eos": True, "max_tokens": 6}, (6, FinishReason.LENGTH, None)),
        ({"ignore_eos": False, "max_tokens": 3}, (3, FinishReason.EOS, None)),
        ({"ignore_eos": False, "max_tokens": 2}, (2, FinishReason.LENGTH, None)),
        ({"ignore_eos": False, "min_tokens": 2}, (3, FinishReason.EOS, None)),
        ({"ignore_eos": False, "min_tokens": 3}, (5, FinishReason.EOS, None)),
        (
            {"ignore_eos": False, "eos_token_ids": frozenset({9})},
            (6, FinishReason.EOS, None),
        ),
        ({"stop_token_ids": frozenset({11})}, (2, FinishReason.STOP, 11)),
        ({"stop_token_ids": frozenset({11, EOS})}, (2, FinishReason.STOP, 11)),
        (
            {"stop_token_ids": frozenset({11}), "min_tokens": 2, "ignore_eos": False},
            (3, FinishReason.EOS, None),
        ),
        ({"stop_token_ids": frozenset({EOS}), "ignore_eos": True}, (3, FinishReason.STOP, EOS)),
        ({"max_tokens": None}, (37, FinishReason.LENGTH, None)),
        ({"max_tokens": 1000}, (37, FinishReason.LENGTH, None)),
    ],
)
async def test_a_sequence_ends_at_the_first_condition_that_holds(
    conditions: dict[str, Any], ending: tuple[int, FinishReason, str | int | None]
) -> None:
    assert await answer_to([10, 11, EOS, 12, EOS], **conditions) == ending


async def test_a_prompt_that_fills_the_context_but_for_one_token_gets_one() -> None:
    async with saying([10], max_seq_len=40) as engine:
        answer = await ask(engine, request([5] * 39, 8))

    assert (answer.token_ids, answer.finish_reason) == ([10], FinishReason.LENGTH)


async def test_the_context_is_no_larger_than_the_cache() -> None:
    engine = make_engine("fake", config(num_kv_blocks=3, block_size=4))
    async with started(engine) as info:
        answer = await ask(engine, request(PROMPT, None))

    assert info.max_seq_len == 12
    assert len(answer.token_ids) == 9


@pytest.mark.parametrize(
    ("stop", "pieces", "said"),
    [
        (("lamb",), ("the ", "la", "mb", " is"), "the lamb"),
        (("mb i",), ("the la", "m", "b", " ", "is here"), "the lamb is here"),
        (("né",), ("an", "né", "e"), "anné"),
        (("🐑",), ("a ", "🐑", " b"), "a 🐑"),
        (("e", "the"), ("no", " the"), "no the"),
        (("absent", "re"), ("whe", "r", "e is"), "where is"),
    ],
)
async def test_a_stop_string_is_found_however_the_tokens_split_it(
    stop: tuple[str, ...], pieces: tuple[str, ...], said: str
) -> None:
    script = tokens_of(*pieces)
    count, reason, stop_reason = await answer_to(script, stop=stop)
    text = TOKENIZER.decode(script[:count])

    assert reason is FinishReason.STOP
    assert stop_reason in stop
    assert str(stop_reason) in text
    assert said.startswith(text)
    assert not any(string in TOKENIZER.decode(script[: count - 1]) for string in stop)


async def test_a_stop_string_before_min_tokens_is_passed_over() -> None:
    script = tokens_of("a", "b", "a", "b")

    assert await answer_to(script, stop=("ab",)) == (2, FinishReason.STOP, "ab")
    assert await answer_to(script, stop=("ab",), min_tokens=2) == (4, FinishReason.STOP, "ab")


async def test_a_stop_string_of_the_prompt_does_not_end_the_answer() -> None:
    script = tokens_of("x", "y")
    async with saying([*script, *[9] * 9]) as engine:
        answer = await ask(engine, request(tokens_of("y", "x"), 5, stops={"stop": ("yx", "zz")}))

    assert (len(answer.token_ids), answer.finish_reason) == (5, FinishReason.LENGTH)


async def test_stop_strings_survive_a_preemption() -> None:
    script = tokens_of(*"abcdefghijkl")
    async with saying([*script, *[9] * 20], num_kv_blocks=7) as engine:
        calls = [request([i, 1, 1], 24, stops={"stop": ("jkl",)}) for i in range(3)]
        answers = await ask_all(engine, calls)

        assert [answer.token_ids for answer in answers] == [script] * 3
        assert engine.stats().preemptions_total > 0


async def test_the_fake_ends_where_it_is_told_to_but_not_before_min_tokens() -> None:
    engine = FakeEngine(config(), eos_after=3)
    async with started(engine):
        plain = await ask(engine, request(PROMPT, 9, ignore_eos=False))
        longer = await ask(engine, request(PROMPT, 9, ignore_eos=False, stops={"min_tokens": 5}))

    assert (len(plain.token_ids), plain.finish_reason) == (3, FinishReason.EOS)
    assert (len(longer.token_ids), longer.finish_reason) == (6, FinishReason.EOS)


TEXT = st.text(alphabet="abé🐑 ", min_size=1, max_size=4)


@given(pieces=st.lists(TEXT, max_size=8), stops=st.lists(TEXT, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_the_first_stop_string_of_the_text_is_found_with_the_token_that_completes_it(
    pieces: list[str], stops: list[str]
) -> None:
    token_ids = tokens_of(*pieces)
    watcher = StopStrings(TOKENIZER, tuple(stops))
    for count, token_id in enumerate(token_ids, start=1):
        text = TOKENIZER.decode(token_ids[:count]).rstrip("\N{REPLACEMENT CHARACTER}")
        found = watcher.push(token_id)
        hits = [(text.find(stop), stop) for stop in stops if stop in text]

        assert found == (min(hits)[1] if hits else None)
        if found:
            return
