"""Several choices of one prompt: one computation of the prompt, streams side by side, one turn."""

from __future__ import annotations

import asyncio
import dataclasses
from array import array
from collections.abc import AsyncGenerator

import pytest

from engine_calls import ask, make_engine, request, started, until
from shepherd_events.events import Attribution
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.protocol import SequenceFinished
from shepherd_worker.errors import OverloadedError
from shepherd_worker.handlers.choices import answer_choices
from shepherd_worker.request import Choices, FinishReason, GenerateRequest, Sampling, TokenChunk

PROMPT = range(10, 40)
HOT = Sampling(temperature=1.5, seed=7)


async def answers(
    engine: EmbeddedEngine, call: GenerateRequest, num: int, of: int = 0
) -> list[tuple[list[int], FinishReason | None]]:
    """Tokens and reason of each choice, in their order."""
    tokens: dict[int, list[int]] = {index: [] for index in range(num)}
    reasons: dict[int, FinishReason] = {}
    generate = engine.generate
    async for index, chunk in answer_choices(generate, generate, call, Choices(num, of or num)):
        assert index not in reasons, "nothing follows the end of a choice"
        tokens[index] += chunk.token_ids
        if chunk.finish_reason is not None:
            reasons[index] = chunk.finish_reason
    return [(tokens[index], reasons.get(index)) for index in range(num)]


async def test_each_choice_is_an_answer_of_its_own_seed() -> None:
    engine = make_engine("torch")
    async with started(engine):
        chosen = await answers(engine, request(PROMPT, 9, sampling=HOT), 3)
        alone = [
            await answers(
                engine, request(PROMPT, 9, sampling=dataclasses.replace(HOT, seed=7 + index)), 1
            )
            for index in range(3)
        ]

    assert chosen == [answer for (answer,) in alone]
    assert len({tuple(tokens) for tokens, _ in chosen}) == 3


async def test_the_prompt_is_computed_once_and_the_conversation_has_one_turn() -> None:
    engine = make_engine("fake")
    await engine.start()
    call = dataclasses.replace(request(PROMPT, 9), origin=Attribution("r", session_id="s", turn=1))
    chosen = await answers(engine, call, 4)
    stats = engine.stats()
    await engine.close()
    events = [event async for batch in engine.cache_events() for event in batch]
    ends = [event for event in events if isinstance(event, SequenceFinished)]

    assert [tokens for tokens, _ in chosen] == [chosen[0][0]] * 4
    assert stats.prompt_tokens_cached_total == 3 * 28  # all but the last, partial block
    assert sorted(end.origin is not None for end in ends) == [False, False, False, True]


async def test_the_best_of_several_are_the_likeliest_in_order() -> None:
    engine = make_engine("torch")
    async with started(engine):
        call = request(PROMPT, 6, sampling=HOT)
        each = [
            await ask(engine, dataclasses.replace(call, sampling=sampling, logprobs=0))
            for sampling in (dataclasses.replace(HOT, seed=7 + index) for index in range(4))
        ]
        best = await answers(engine, call, 2, of=4)
        shown = answer_choices(
            engine.generate, engine.generate, dataclasses.replace(call, logprobs=2), Choices(1, 2)
        )
        chunks = [chunk async for _, chunk in shown]

    likeliest = sorted(each, key=lambda answer: -sum(e.logprob for e in answer.logprobs))
    assert [tokens for tokens, _ in best] == [answer.token_ids for answer in likeliest[:2]]
    assert [len(entry.top) for chunk in chunks for entry in chunk.logprobs] == [2] * 6


async def test_closing_ends_every_choice() -> None:
    engine = make_engine("fake")
    async with started(engine):
        call = request(PROMPT, 400)
        choices = answer_choices(engine.generate, engine.generate, call, Choices(3, 3))
        seen: set[int] = set()
        async for index, _ in choices:
            seen.add(index)
            if len(seen) == 3:
                break
        assert engine.stats().num_running == 3
        await choices.aclose()
        await until(lambda: engine.stats().num_running == 0)


async def test_a_choice_that_is_refused_ends_the_others() -> None:
    ended: list[str] = []

    async def endless(call: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        try:
            while True:
                yield TokenChunk((1,))
                await asyncio.sleep(0)
        finally:
            ended.append("first")

    async def refused(call: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        raise OverloadedError(3, 2)
        yield TokenChunk(())

    call = GenerateRequest(request_id="r", token_ids=array("I", [1]))
    with pytest.raises(OverloadedError):
        async for _ in answer_choices(endless, refused, call, Choices(2, 2)):
            pass

    assert ended == ["first"]
