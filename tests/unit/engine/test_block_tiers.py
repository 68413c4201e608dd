"""The block pool as a state machine: two tiers, priorities, durations, and what the blocks hold."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cache_replica import CacheReplica
from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import BlockHash, BlocksStored, Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockPool
from shepherd_worker.engine.embedded.cache.eviction import Evictable, PriorityLru
from shepherd_worker.engine.embedded.cache.retention import BlockRetention
from shepherd_worker.request import DEFAULT_PRIORITY

ROOT = root_hash(b"model")
SIZE = 2
NUM_BLOCKS = 7


class WatchedPolicy(PriorityLru):
    """The default policy, whose every choice is compared with all that was on offer."""

    def __init__(self) -> None:
        super().__init__()
        self.offered: dict[BlockHash, Evictable] = {}

    def add(self, block: Evictable) -> None:
        assert block.block_hash not in self.offered
        self.offered[block.block_hash] = block
        super().add(block)

    def remove(self, block_hash: BlockHash) -> None:
        del self.offered[block_hash]
        super().remove(block_hash)

    def pop(self) -> BlockHash:
        chosen = super().pop()
        given_up = self.offered.pop(chosen)
        rank = (given_up.priority, given_up.use_order)
        assert all(rank < (other.priority, other.use_order) for other in self.offered.values())
        return chosen


class Holder:
    """A sequence, as the pool sees one."""

    def __init__(self, tokens: list[int], blocks: list[int], num_stored: int) -> None:
        self.tokens, self.blocks, self.num_stored = tokens, blocks, num_stored
        self.hashes: list[BlockHash] = list(block_hashes(ROOT, array("I", tokens), SIZE))

    def run(self, start: int, stop: int) -> BlocksStored:
        return BlocksStored(
            block_hashes=array("Q", self.hashes[start:stop]),
            parent_hash=self.hashes[start - 1] if start else None,
            token_ids=array("I", self.tokens[start * SIZE : stop * SIZE]),
            start_block=start,
        )


retentions = st.none() | st.builds(
    BlockRetention,
    st.sampled_from([0, DEFAULT_PRIORITY, 100]),
    st.none() | st.sampled_from([1.0, 5.0]),
)


class BlockTiersMachine(RuleBasedStateMachine):
    """Sequences over few tokens come, fill their blocks and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = CacheReplica(ROOT, SIZE)
        self.holders: list[Holder] = []
        self.expected: dict[BlockHash, tuple[int, float | None, float]] = {}
        """Priority, duration and last use of what is cached, kept apart from the pool."""
        self.now_s = 0.0
        self.content: dict[Tier, dict[int, BlockHash | None]] = {Tier.DEVICE: {}, Tier.HOST: {}}
        """What a runner that does as it is told holds where; None is somebody's half a block."""

    @initialize(num_host_blocks=st.sampled_from([0, 2, 3, 5, 12]))
    def start(self, num_host_blocks: int) -> None:
        self.pool = BlockPool(
            NUM_BLOCKS, SIZE, num_host_blocks=num_host_blocks, policy=WatchedPolicy
        )

    @rule(
        pairs=st.lists(st.integers(0, 1), min_size=1, max_size=5),
        spare=st.integers(0, 2),
        retention=retentions,
    )
    def arrive(self, pairs: list[int], spare: int, retention: BlockRetention | None) -> None:
        tokens = [token for token in pairs for _ in range(SIZE)]
        holder = Holder(tokens, [], 0)
        before = self.pool.counts(), self.pool.counts(Tier.HOST)
        matched = self.pool.match(holder.hashes)
        num_new = len(holder.hashes) - len(matched)
        blocks = self.pool.acquire(matched, num_new, spare=spare)
        if blocks is None:
            assert (self.pool.counts(), self.pool.counts(Tier.HOST)) == before
            assert self.pool.drain_copies() == []
            return
        self.copy()
        for new in blocks[len(matched) :]:
            self.content[Tier.DEVICE][new] = None
        holder.blocks, holder.num_stored = blocks, len(matched)
        self.retain(holder.hashes[: len(matched)], blocks[: len(matched)], retention)
        self.holders.append(holder)

    def copy(self) -> None:
        for copy in self.pool.drain_copies():
            other = Tier.HOST if copy.to is Tier.DEVICE else Tier.DEVICE
            self.content[copy.to][copy.target] = self.content[other][copy.source]

    def retain(
        self, hashes: Iterable[BlockHash], blocks: list[int], retention: BlockRetention | None
    ) -> None:
        self.pool.retain(blocks, [retention] * len(blocks))
        for block_hash in hashes:
            known = self.expected.get(block_hash, (DEFAULT_PRIORITY, None, self.now_s))
            said = (retention.priority, retention.duration_s) if retention else known[:2]
            self.expected[block_hash] = (*said, self.now_s)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), retention=retentions)
    def fill(self, data: st.DataObject, retention: BlockRetention | None) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        start = holder.num_stored
        stop = data.draw(st.integers(start, len(holder.blocks)))
        for place, block_hash in zip(
            holder.blocks[start:stop], holder.hashes[start:], strict=False
        ):
            self.content[Tier.DEVICE][place] = block_hash
        kept = self.pool.store(holder.blocks[start:stop], holder.run(start, stop))
        holder.blocks[start:stop] = kept
        holder.num_stored = stop
        self.retain(holder.hashes[start:stop], kept, retention)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        self.pool.release(holder.blocks)
        for block_hash in holder.hashes[: holder.num_stored]:
            self.expected[block_hash] = (*self.expected[block_hash][:2], self.now_s)

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.pool.tick(self.now_s)
        held = self.held()
        for block_hash, (_, duration_s, used_s) in self.expected.items():
            idle = block_hash not in held
            if idle and duration_s is not None and used_s + duration_s <= self.now_s:
                self.expected[block_hash] = (DEFAULT_PRIORITY, None, used_s)

    def held(self) -> set[BlockHash]:
        return {h for holder in self.holders for h in holder.hashes[: holder.num_stored]}

    @invariant()
    def nothing_is_lost_and_the_events_say_what_is_resident_on_each_tier(self) -> None:
        self.pool.check()
        self.replica.apply(self.pool.drain_events())
        for tier in (Tier.DEVICE, Tier.HOST):
            assert self.replica.on[tier] == self.pool.resident(tier)
        assert len(self.replica.removed) == self.pool.num_evicted_total
        for gone in self.expected.keys() - self.replica.resident.keys():
            del self.expected[BlockHash(gone)]
        held = {block for holder in self.holders for block in holder.blocks}

        assert self.pool.counts().referenced == len(held)
        assert self.pool.counts(Tier.HOST).referenced == 0

        self.check_content()

    def check_content(self) -> None:
        """A hash leads to its own content and priority."""
        for block_hash in self.replica.resident:
            (block,) = self.pool.match([BlockHash(block_hash)])
            assert self.content[block.tier][block.block_id] == block.block_hash
            priority, duration_s, _ = self.expected[block.block_hash]
            assert (block.priority, block.duration_s) == (priority, duration_s)

    @invariant()
    def what_is_held_lies_on_the_device_where_its_holder_thinks(self) -> None:
        for holder in self.holders:
            found = self.pool.match(holder.hashes[: holder.num_stored])

            assert [block.block_id for block in found] == holder.blocks[: holder.num_stored]
            assert {block.tier for block in found} <= {Tier.DEVICE}

    def teardown(self) -> None:
        """Whatever happened, all blocks can be had once nobody refers to any."""
        if not hasattr(self, "pool"):
            return
        for holder in self.holders:
            self.pool.release(holder.blocks)
        blocks = self.pool.acquire((), NUM_BLOCKS)
        self.pool.check()

        assert blocks is not None
        assert sorted(blocks) == list(range(NUM_BLOCKS))


BlockTiersMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestBlockTiers = BlockTiersMachine.TestCase
