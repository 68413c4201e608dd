"""Prompts that leave turns out, and say which turn they end with."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from shepherd_memory.fake import FakeWorker

if TYPE_CHECKING:
    from conftest import World

Said = list[tuple[str, str]]

T1: Said = [("user", "Where do cats sleep?"), ("assistant", "Everywhere at all.")]
T2: Said = [("user", "And what do dogs eat?"), ("assistant", "Whatever is left.")]
T3: Said = [("user", "Who feeds the two?"), ("assistant", "You do.")]
CALLING: Said = [("user", "Who feeds the two?"), ("assistant", '{"name": "search_memory"}')]
TEXT1 = (1, "Where do cats sleep? Everywhere at all.")
TEXT2 = (2, "And what do dogs eat? Whatever is left.")
TEXT3 = (3, "Who feeds the two? You do.")


def test_a_turn_that_is_asked_again_alone_is_still_one_turn(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([*T1, *T2]))

    for request in ("first", "again"):
        world.apply(*worker.complete(T3, request=request, turn=3, turn_is_given=True))

    assert world.live() == [TEXT1, TEXT2, TEXT3]


def test_a_turn_that_goes_on_alone_after_a_call_replaces_its_beginning(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([*T1, *T2]))

    world.apply(*worker.complete(CALLING, turn=3, turn_is_given=True))
    world.apply(*worker.complete([*CALLING, T3[1]], turn=3, turn_is_given=True))

    assert world.live() == [TEXT1, TEXT2, (3, " ".join(text for _, text in [*CALLING, T3[1]]))]


def test_the_same_words_alone_in_a_later_turn_are_another_turn(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([*T1, *T2]))

    world.apply(*worker.complete(T1, turn=3, turn_is_given=True))

    assert world.live() == [TEXT1, TEXT2, (3, TEXT1[1])]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_turns_that_say_their_numbers_may_be_heard_in_any_order(
    order: tuple[int, ...], world: World
) -> None:
    told = [
        FakeWorker("w1").complete(T1, started_unix_ns=1),
        FakeWorker("w2").complete([*T1, *T2], started_unix_ns=2),
        FakeWorker("w3").complete(T3, started_unix_ns=3, turn=3, turn_is_given=True),
    ]

    for index in order:
        world.apply(*told[index])

    assert world.live() == [TEXT1, TEXT2, TEXT3]
    assert max(world.turns(), key=lambda turn: turn.age_key).ordinal == 3


def test_history_that_is_shown_again_keeps_its_number_before_the_given_one(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([*T1, *T2]))

    world.apply(*worker.complete([*T2, *T3], turn=3, turn_is_given=True))

    assert world.live() == [TEXT1, TEXT2, TEXT3]
