"""Which turn a removed block takes along, beside the guess that every block has 64 tokens."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest

from shepherd_memory.fake import FakeWorker, spell

if TYPE_CHECKING:
    from conftest import World

Said = list[tuple[str, str]]

TALK: Said = [
    ("user", f"question number {turn}, of a usual length?")
    if speaker == 0
    else ("assistant", f"answer number {turn}, " + "which goes on for a while, " * turn)
    for turn in range(1, 6)
    for speaker in (0, 1)
]
GUESSED_BLOCK_SIZE = 64


def guessed(num_blocks: int) -> list[int]:
    """The peer: the oldest messages whose tokens, summed up, fit into 64 per removed block."""
    room = num_blocks * GUESSED_BLOCK_SIZE
    ends = accumulate(len(spell([message])) for message in TALK)
    messages = sum(end <= room for end in ends)
    return list(range(1, messages // 2 + 1))


def holding(turn: int, block_size: int) -> list[int]:
    """The places of the blocks that hold tokens of one turn and of no other."""
    start = len(spell(TALK[: 2 * turn - 2]))
    end = len(spell(TALK[: 2 * turn]))
    return list(range(-(-start // block_size), end // block_size))


@pytest.mark.parametrize("block_size", [4, 16, 32])
@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_the_turn_that_a_block_holds_is_archived_whatever_its_size_and_place(
    world: World, block_size: int, turn: int
) -> None:
    worker = FakeWorker(block_size=block_size)
    world.apply(*worker.complete(TALK))
    (place, *_) = holding(turn, block_size)

    world.apply(worker.evict(array("Q", [worker.blocks_of(TALK)[place]])))

    assert [ordinal for ordinal, _ in world.archived()] == [turn]
    assert guessed(1) != [turn]


def test_all_blocks_of_a_turn_archive_it_alone_though_they_are_many(world: World) -> None:
    worker = FakeWorker(block_size=16)
    world.apply(*worker.complete(TALK))
    places = holding(3, 16)

    world.apply(worker.evict(array("Q", [worker.blocks_of(TALK)[place] for place in places])))

    assert [ordinal for ordinal, _ in world.archived()] == [3]
    assert guessed(len(places)) == [1, 2, 3]
