"""Turns as real chat templates and tokenizers spell them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from chat_models import model
from shepherd_memory.fake import FakeWorker
from shepherd_memory.notifier import notice_of

if TYPE_CHECKING:
    from conftest import World

SYSTEM = ("system", "You are kind.")
T1 = [("user", "Where do cats\nsleep?"), ("assistant", "Everywhere \U0001f63a.")]
T2 = [("user", "And dogs?"), ("assistant", "On the cat.")]


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama2", "zephyr", "phi3"])
def test_a_turn_is_kept_and_archived_word_for_word(world: World, name: str) -> None:
    spelled = model(name)
    world.stop()
    world.start(transcript=spelled.reader)

    def tokens(said: Sequence[tuple[str, str]]) -> array[int]:
        return spelled.tokens(*said, answer=said[-1][0] != "assistant")

    worker = FakeWorker(spell=tokens)
    world.apply(*worker.complete([SYSTEM, *T1[:1]], request="cancelled before its answer"))
    world.apply(*worker.complete([SYSTEM, *T1]))
    world.apply(*worker.complete([SYSTEM, *T1, *T2]))
    assert [ordinal for ordinal, _ in world.live()] == [1, 2]

    (cats,) = [turn for turn in world.turns() if turn.ordinal == 1]
    world.apply(worker.evict(cats.placement.block_hashes[-1:]))
    assert world.archived() == [(1, "Where do cats\nsleep? Everywhere \U0001f63a.")]

    notice = notice_of("local", [cats], 1).text
    trimmed = [SYSTEM, *T2, ("user", f"{notice}\nWhy?"), ("assistant", "Warm.")]
    world.apply(*worker.complete(trimmed))
    assert world.live()[-2:] == [(2, "And dogs? On the cat."), (3, "Why? Warm.")]
