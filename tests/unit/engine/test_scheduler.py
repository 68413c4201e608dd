from __future__ import annotations

from array import array
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cache_replica import CacheReplica
from engine_calls import request
from shepherd_events.block_hash import root_hash
from shepherd_events.events import CacheContext, Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockPool, PoolCounts
from shepherd_worker.engine.embedded.scheduler import Scheduler, StepPlan
from shepherd_worker.engine.embedded.sequence import ImportedBlocks, Sequence
from shepherd_worker.engine.protocol import SequenceFinished
from shepherd_worker.errors import OverloadedError
from shepherd_worker.request import FinishReason

ROOT = root_hash(b"model")


def sequence(prompt: list[int], max_tokens: int = 4, *, prefill_only: bool = False) -> Sequence:
    return Sequence(
        request=request(prompt, max_tokens),
        root=ROOT,
        context=CacheContext(),
        eos_token_ids=frozenset(),
        max_tokens=max_tokens,
        started_unix_ns=1,
        random=Random(0),
        prefill_only=prefill_only,
    )


def scheduler(
    num_blocks: int = 16,
    *,
    batch: int = 4,
    tokens: int = 8,
    waiting: int = 8,
    size: int = 2,
    host: int = 0,
) -> tuple[Scheduler, BlockPool]:
    pool = BlockPool(num_blocks, size, num_host_blocks=host)
    made = Scheduler(pool, max_batch_size=batch, max_num_tokens=tokens, max_waiting=waiting)
    return made, pool


def execute(made: Scheduler, plan: StepPlan, next_token: int = 9) -> None:
    """Do what an engine does with a plan."""
    for planned in plan.imports:
        made.mark_computed(planned.sequence, 2 * len(planned.payloads))
    for work in plan.work:
        ends = work.num_samples
        made.mark_computed(work.sequence, work.num_tokens)
        if not ends:
            continue
        work.sequence.token_ids.append(next_token)
        if work.sequence.prefill_only or work.sequence.num_output >= work.sequence.max_tokens:
            made.finish(work.sequence, FinishReason.LENGTH)


def shape(plan: StepPlan) -> list[tuple[Sequence, int]]:
    return [(work.sequence, work.num_tokens) for work in plan.work]


def test_a_long_prompt_is_computed_in_chunks_beside_running_decodes() -> None:
    made, _ = scheduler(tokens=4)
    short, long = sequence([1, 2]), sequence(list(range(7)))
    made.add(short)
    execute(made, made.schedule())
    made.add(long)
    plans = []
    for _ in range(3):
        plan = made.schedule()
        plans.append(shape(plan))
        execute(made, plan)

    assert plans == [
        [(short, 1), (long, 3)],
        [(short, 1), (long, 3)],
        [(short, 1), (long, 1)],
    ]


def test_a_cached_prefix_is_not_computed_again_but_its_last_token_is() -> None:
    made, pool = scheduler()
    first = sequence([1, 2, 3, 4], 1)
    made.add(first)
    execute(made, made.schedule())
    again = sequence([1, 2, 3, 4], 1)
    made.add(again)
    plan = made.schedule()

    assert shape(plan) == [(again, 2)]
    assert again.num_cached == 2
    execute(made, plan)
    assert pool.counts() == PoolCounts(empty=14, free=2, referenced=0)


def test_the_youngest_sequence_is_preempted_when_blocks_run_out() -> None:
    made, pool = scheduler(5)
    old, young = sequence([1, 1, 1], 8), sequence([2, 2, 2], 8)
    made.add(old)
    execute(made, made.schedule())
    made.add(young)
    for _ in range(3):
        execute(made, made.schedule())

    assert made.num_preempted_total == 1
    assert made.running == [old]
    assert list(made.waiting) == [young]
    assert (young.num_computed, young.block_ids) == (0, [])
    pool.check()


def test_imported_blocks_count_as_computed_and_the_rest_is_planned() -> None:
    made, _ = scheduler()
    decode = sequence([1, 2, 3, 4, 5])
    decode.imported = ImportedBlocks(0, [b"a", b"b"])
    made.add(decode)
    plan = made.schedule()

    assert [(i.start, list(i.payloads)) for i in plan.imports] == [(0, [b"a", b"b"])]
    assert shape(plan) == [(decode, 1)]
    assert plan.new_block_ids == decode.block_ids[2:]
    assert decode.num_cached == 0


def test_imported_blocks_without_the_ones_before_them_are_of_no_use() -> None:
    made, _ = scheduler()
    decode = sequence([1, 2, 3, 4, 5])
    decode.imported = ImportedBlocks(1, [b"b"])
    made.add(decode)
    plan = made.schedule()

    assert plan.imports == []
    assert shape(plan) == [(decode, 5)]


def test_a_prefill_keeps_its_full_prompt_blocks_until_it_is_released() -> None:
    made, pool = scheduler()
    prefill = sequence([1, 2, 3, 4, 5], prefill_only=True)
    made.add(prefill)
    execute(made, made.schedule())

    assert pool.counts() == PoolCounts(empty=14, free=0, referenced=2)
    made.release(prefill)
    made.release(prefill)
    assert pool.counts() == PoolCounts(empty=14, free=2, referenced=0)


def test_one_more_than_may_wait_is_refused() -> None:
    made, _ = scheduler(batch=1, waiting=2)
    for _ in range(3):
        made.add(sequence([1]))

    with pytest.raises(OverloadedError, match="3 requests are waiting, the limit is 2"):
        made.add(sequence([1]))


def test_a_cancelled_sequence_ends_wherever_it_is() -> None:
    made, pool = scheduler(batch=1)
    running, waiting = sequence([1, 2, 3]), sequence([4, 5, 6])
    made.add(running)
    made.add(waiting)
    execute(made, made.schedule())
    made.finish(waiting, FinishReason.CANCELLED)
    made.finish(running, FinishReason.CANCELLED)
    *_, first, second = pool.drain_events()

    assert isinstance(first, SequenceFinished)
    assert (first.num_full_blocks, first.tail_token_ids) == (0, array("I", [4, 5, 6]))
    assert isinstance(second, SequenceFinished)
    assert (second.num_full_blocks, second.tail_token_ids) == (1, array("I", [3, 9]))
    assert pool.counts() == PoolCounts(empty=15, free=1, referenced=0)
    assert shape(made.schedule()) == []


def test_a_newcomer_is_not_let_in_at_the_cost_of_the_running_ones_next_block() -> None:
    made, _ = scheduler(4)
    running, newcomer = sequence([1, 1, 1], 2), sequence([2, 2, 2])
    made.add(running)
    execute(made, made.schedule())
    made.add(newcomer)

    assert shape(made.schedule()) == [(running, 1)]


def test_an_oldest_sequence_keeps_its_blocks_and_the_preempted_one_goes_first_again() -> None:
    made, _ = scheduler(5, batch=2)
    old, young, late = sequence([1, 1, 1], 6), sequence([2, 2, 2], 4), sequence([3])
    for new in (old, young, late):
        made.add(new)
    order = []
    while made.running or made.waiting:
        before = {*made.running, *made.waiting}
        execute(made, made.schedule())
        order += [one for one in (old, young, late) if one in before and one.finish_reason]

    assert made.num_preempted_total == 1
    assert order == [old, young, late]


def seen(user: Sequence, position: int) -> list[int]:
    """The tokens that the KV at a position was computed from."""
    return user.token_ids[: position + 1].tolist()


class SchedulerMachine(RuleBasedStateMachine):
    """Requests over few tokens come, run, are cancelled and leased, in a pool too small for all."""

    BATCH, TOKENS, SIZE = 3, 5, 2

    def __init__(self) -> None:
        super().__init__()
        self.scheduler, self.pool = scheduler(
            8, batch=self.BATCH, tokens=self.TOKENS, waiting=4, size=self.SIZE, host=5
        )
        self.replica = CacheReplica(ROOT, self.SIZE)
        self.alive: list[Sequence] = []
        self.memory: dict[tuple[int, int], list[int]] = {}
        """What a device would hold at (block, offset): a token's KV stands for all up to it."""
        self.host_memory: dict[tuple[int, int], list[int]] = {}

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=9),
        max_tokens=st.integers(1, 6),
        prefill_only=st.booleans(),
    )
    def arrive(self, prompt: list[int], max_tokens: int, prefill_only: bool) -> None:
        new = sequence(prompt, max_tokens, prefill_only=prefill_only)
        try:
            self.scheduler.add(new)
        except OverloadedError:
            assert len(self.scheduler.waiting) >= 4
        else:
            self.alive.append(new)

    @rule(token=st.integers(0, 1))
    def step(self, token: int) -> None:
        decoding = [s for s in self.scheduler.running if s.num_uncomputed == 1]
        plan = self.scheduler.schedule()
        planned = [work.sequence for work in plan.work]

        assert sum(work.num_tokens for work in plan.work) == plan.num_tokens <= self.TOKENS
        assert all(work.num_tokens > 0 for work in plan.work)
        assert len(planned) == len(set(planned))
        assert len(self.scheduler.running) <= self.BATCH
        assert all(s in planned or s in self.scheduler.waiting for s in decoding)
        self.copy(plan)
        for work in plan.work:
            start = work.sequence.num_computed
            assert len(work.sequence.block_ids) * self.SIZE >= start + work.num_tokens
            for position in range(start, start + work.num_tokens):
                self.memory[self.place(work.sequence, position)] = seen(work.sequence, position)
        execute(self.scheduler, plan, token)

    def copy(self, plan: StepPlan) -> None:
        for copy in plan.copies:
            source, target = self.host_memory, self.memory
            if copy.to is Tier.HOST:
                source, target = target, source
            for offset in range(self.SIZE):
                target[copy.target, offset] = source[copy.source, offset]
        for new in plan.new_block_ids:
            for offset in range(self.SIZE):
                self.memory[new, offset] = []

    def place(self, user: Sequence, position: int) -> tuple[int, int]:
        return user.block_ids[position // self.SIZE], position % self.SIZE

    @invariant()
    def a_block_table_leads_to_the_sequence_s_own_tokens(self) -> None:
        for user in self.scheduler.running:
            for position in range(user.num_computed):
                assert self.memory[self.place(user, position)] == seen(user, position)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.alive))
        self.alive.remove(chosen)
        if chosen.finish_reason is None:
            self.scheduler.finish(chosen, FinishReason.CANCELLED)
        self.scheduler.release(chosen)

    @invariant()
    def nothing_is_lost_and_the_events_say_what_is_resident(self) -> None:
        self.pool.check()
        self.replica.apply(self.pool.drain_events())

        assert self.replica.on[Tier.DEVICE] == self.pool.resident(Tier.DEVICE)
        assert self.replica.on[Tier.HOST] == self.pool.resident(Tier.HOST)
        users = [*self.scheduler.running, *self.scheduler.held]
        held = {block for user in users for block in user.block_ids}
        assert self.pool.counts().referenced == len(held)

    def teardown(self) -> None:
        """Whatever happened, everything that waits comes to its end."""
        for _ in range(400):
            for held in tuple(self.scheduler.held):
                self.scheduler.release(held)
            self.step(0)
        self.replica.apply(self.pool.drain_events())

        assert (self.scheduler.running, len(self.scheduler.waiting)) == ([], 0)
        assert self.pool.counts().referenced == 0


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestScheduler = SchedulerMachine.TestCase
