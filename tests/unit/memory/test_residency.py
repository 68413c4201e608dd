"""Where the blocks of turns lie, as the consumer knows it and as whoever watches is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_doors import SAID, House, house
from shepherd_events.events import BlockBatch, BlocksRemoved, BlocksStored, StreamId, Tier
from shepherd_memory.block_index import Holder
from shepherd_memory.memory import Memory
from shepherd_memory.residency import residency_of

W1, W2 = StreamId("w1"), StreamId("w2")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened:
        yield opened


def test_the_nearest_tier_of_any_worker_is_where_a_block_lies() -> None:
    where: dict[int, frozenset[Holder]] = {
        1: frozenset({(W1, Tier.HOST), (W2, Tier.DEVICE)}),
        2: frozenset({(W1, Tier.HOST)}),
    }
    found = residency_of([1, 2, 3], lambda block: where.get(block, frozenset()))

    assert found.tiers == (Tier.DEVICE, Tier.HOST, None)
    assert found.held == {(W1, Tier.HOST): 2, (W2, Tier.DEVICE): 1}
    assert (found.num_resident, found.is_whole) == (2, False)


@given(st.lists(st.frozensets(st.tuples(st.sampled_from([W1, W2]), st.sampled_from(Tier)))))
def test_every_copy_of_a_block_is_counted_once_at_its_holder(
    where: list[frozenset[Holder]],
) -> None:
    found = residency_of(range(len(where)), where.__getitem__)

    assert sum(found.held.values()) == sum(map(len, where))
    assert found.num_resident == sum(map(bool, where))
    assert found.is_whole is (bool(where) and all(where))


async def test_a_turn_that_moves_to_the_host_is_there_and_not_gone(door: House) -> None:
    door.talk()
    memory = Memory("local", door.means)
    hashes = door.worker.blocks_of(SAID)
    first = hashes[:1]
    tokens = door.worker.frames[0].body
    assert isinstance(tokens, BlockBatch)
    stored = tokens.events[0]
    assert isinstance(stored, BlocksStored)
    moved = BlocksStored(first, None, stored.token_ids, 0, tier=Tier.HOST)
    door.consumer.apply([door.worker.emit(BlockBatch((moved, BlocksRemoved(first, Tier.DEVICE))))])
    turns = await memory.turns("s", after=0, limit=9)

    (one, *_) = await memory.residency(turns)

    assert one.tiers[:2] == (Tier.HOST, Tier.DEVICE)
    assert one.is_whole
    assert one.held[door.worker.stream, Tier.HOST] == 1
    assert await memory.resident_blocks() == {
        (door.worker.stream, Tier.DEVICE): len(hashes) - 1,
        (door.worker.stream, Tier.HOST): 1,
    }


async def test_whoever_watches_hears_of_evictions_that_archive_and_of_those_that_do_not(
    door: House,
) -> None:
    door.talk()
    changes = Memory("local", door.means).changes()
    heard = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    newest_only = door.worker.blocks_of(SAID)[-1:]
    door.consumer.apply([door.worker.evict(newest_only)])

    assert await asyncio.wait_for(heard, 5)
    assert (await door.get("/v1/stats"))["archived_turns"] == 0

    heard = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    door.evict()

    assert await asyncio.wait_for(heard, 5)
    assert (await door.get("/v1/stats"))["archived_turns"] == 2

    door.means.bell.close()

    assert [change async for change in changes] in ([], [True])


async def test_looking_is_no_recall(door: House) -> None:
    door.talk()
    door.evict()
    memory = Memory("local", door.means)
    (looked_at, *_) = await memory.search("cats", k=1, session=None, is_recall=False)
    name = looked_at.turn.archive_id

    assert await memory.recalled_unix_ns([name]) == {}

    await memory.search("cats", k=1, session=None)

    assert await memory.recalled_unix_ns([name]) == {name: 7}
