"""Which tokens the next forward pass computes, and in which blocks their KV goes.

Pure state: no tensors, no clock, no I/O.  One step:

    1. every decoding sequence gets its one token, oldest first; when blocks run
       out the youngest running sequence is preempted and computed again later
    2. prompts that are only partly computed get what is left of the budget
    3. waiting sequences are admitted in order while budget, places and blocks last
    4. decoding sequences that can guess their next tokens have the guesses verified,
       with the budget and the blocks that nobody else wants

There are never more running sequences than the budget has tokens, so no decode
waits for a prompt and no prompt waits for ever.  The oldest running sequence
never loses its blocks to another one, so something always ends.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass, field

from shepherd_events.events import Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy, BlockPool
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.protocol import SequenceFinished
from shepherd_worker.errors import OverloadedError
from shepherd_worker.request import FinishReason


@dataclass(frozen=True, slots=True)
class Work:
    """The next `num_tokens` uncomputed tokens of a sequence; the last of them may be guesses."""

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()
    """Guesses at what follows the sequence's own tokens."""

    @property
    def num_known(self) -> int:
        """Tokens that are the sequence's own."""
        return self.num_tokens - len(self.draft)

    @property
    def num_samples(self) -> int:
        """After how many of the last tokens a next one is sampled: 0 before the sequence's end."""
        return 1 + len(self.draft) if self.num_known == self.sequence.num_uncomputed else 0

    @property
    def token_ids(self) -> array[int]:
        """The tokens to compute."""
        start = self.sequence.num_computed
        known = self.sequence.token_ids[start : start + self.num_known]
        return known + array("I", self.draft)


@dataclass(frozen=True, slots=True)
class Import:
    """Blocks of a sequence, from `start` on, that are filled with `payloads` before the pass."""

    sequence: Sequence
    start: int
    payloads: ReadOnlyList[bytes | memoryview]
    from_store: bool


@dataclass(slots=True)
class StepPlan:
    """One forward pass; decodes come first."""

    work: list[Work] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)
    """Between device and host, in this order, before anything is written to a device block."""
    imports: list[Import] = field(default_factory=list)
    new_block_ids: list[int] = field(default_factory=list)
    """Blocks that were taken empty for this pass; they hold what someone left there."""
    num_tokens: int = 0

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Let the pass compute the next tokens of a sequence."""
        self.work.append(Work(sequence, num_tokens))
        self.num_tokens += num_tokens


class Scheduler:
    """See the module's docstring; for one thread."""

    def __init__(
        self, pool: BlockPool, *, max_batch_size: int, max_num_tokens: int, max_waiting: int
    ) -> None:
        self.running: list[Sequence] = []
        """Oldest admission first."""
        self.waiting: deque[Sequence] = deque()
        self.held: set[Sequence] = set()
        """Ended prefills whose prompt blocks are leased."""
        self.num_preempted_total = 0
        self._pool = pool
        self._max_running = min(max_batch_size, max_num_tokens)
        self._max_num_tokens = max_num_tokens
        self._max_waiting = max_waiting

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn.

        Raises:
            OverloadedError: more would wait than may, beyond those that find a place at once.
        """
        places = self._max_running - len(self.running)
        if len(self.waiting) >= self._max_waiting + places:
            raise OverloadedError(len(self.waiting), self._max_waiting)
        self.waiting.append(sequence)

    def schedule(self) -> StepPlan:
        """Plan one pass; empty when nothing can run now."""
        plan = StepPlan()
        preempted_before = self.num_preempted_total
        self._plan_decodes(plan)
        self._plan_prefills(plan)
        if self.num_preempted_total == preempted_before:
            self._admit_waiting(plan)
            self._plan_drafts(plan)
        plan.copies = self._pool.drain_copies()
        return plan

    def mark_computed(self, sequence: Sequence, num_tokens: int) -> None:
        """The KV of the next `num_tokens` tokens is in the cache: publish the blocks it fills."""
        size = self._pool.block_size
        start = sequence.num_computed // size
        sequence.num_computed += num_tokens
        stop = sequence.num_computed // size
        if start == stop:
            return
        run = sequence.stored_run(start, stop, size)
        blocks = self._pool.store(sequence.block_ids[start:stop], run)
        self._pool.retain(blocks, sequence.retentions(start, stop, size))
        sequence.block_ids[start:stop] = blocks

    def settle(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """A draft was verified and the accepted tokens are appended: give back what is not needed."""
        assert sequence.drafter is not None
        sequence.drafter.observe(len(sequence.token_ids), num_drafted, num_accepted)
        needed = -(-len(sequence.token_ids) // self._pool.block_size)
        self._pool.release(sequence.block_ids[needed:])
        del sequence.block_ids[needed:]

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a running or waiting sequence and let go of its blocks."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
        sequence.finish_reason = reason
        self._pool.record(self._finished_event(sequence, reason))
        keep = self._num_kept(sequence, reason)
        self._pool.release(sequence.block_ids[keep:])
        del sequence.block_ids[keep:]
        if keep:
            self.held.add(sequence)

    def release(self, sequence: Sequence) -> None:
        """Let go of what an ended prefill holds; without effect the second time."""
        if sequence in self.held:
            self.held.remove(sequence)
            self._pool.release(sequence.block_ids)
            sequence.block_ids.clear()

    def _plan_decodes(self, plan: StepPlan) -> None:
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if sequence.num_uncomputed == 1:
                if not self._grow(sequence, plan):
                    break
                plan.add(sequence, 1)
            index += 1

    def _grow(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Have a block for the next token, from the youngest sequence if need be."""
        if len(sequence.block_ids) * self._pool.block_size >= len(sequence.token_ids):
            return True
        while (new := self._pool.acquire((), 1, origin=sequence.request.origin)) is None:
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.block_ids += new
        plan.new_block_ids += new
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._pool.release(victim.block_ids)
        victim.block_ids.clear()
        victim.num_computed = 0
        self.waiting.appendleft(victim)
        self.num_preempted_total += 1

    def _plan_prefills(self, plan: StepPlan) -> None:
        for sequence in self.running:
            budget = self._max_num_tokens - plan.num_tokens
            if budget == 0:
                return
            if sequence.num_uncomputed > 1:
                plan.add(sequence, min(budget, sequence.num_uncomputed))

    def _admit_waiting(self, plan: StepPlan) -> None:
        while self.waiting and len(self.running) < self._max_running:
            budget = self._max_num_tokens - plan.num_tokens
            if budget == 0:
                return
            num_todo = self._place(self.waiting[0], plan)
            if num_todo is None:
                return
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            plan.add(sequence, min(budget, num_todo))

    def _place(self, sequence: Sequence, plan: StepPlan) -> int | None:
        """Take blocks for all tokens of a sequence, the cached ones by reference.

        The number of tokens whose KV is neither cached nor imported; None without room.
        """
        size, num_tokens = self._pool.block_size, len(sequence.token_ids)
        reusable = (num_tokens - 1) // size  # at least one token is computed, to have its logits
        matched = self._pool.match(sequence.hashes(reusable, size))
        num_on_device = sum(block.tier is Tier.DEVICE for block in matched)
        blocks = self._pool.acquire(
            matched,
            -(-num_tokens // size) - len(matched),
            spare=len(self.running),
            origin=sequence.request.origin,
        )
        if blocks is None:
            return None
        sequence.block_ids = blocks
        self._reuse(sequence, num_on_device, len(matched))
        filled = self._plan_import(sequence, len(matched), reusable, plan)
        plan.new_block_ids += blocks[filled:]
        return num_tokens - filled * size

    def _reuse(self, sequence: Sequence, num_on_device: int, num_matched: int) -> None:
        """Take the first blocks as computed; those after `num_on_device` were on the host."""
        size = self._pool.block_size
        sequence.num_computed = num_matched * size
        self._pool.retain(
            sequence.block_ids[:num_matched], sequence.retentions(0, num_matched, size)
        )
        parts = ((0, num_on_device, Tier.DEVICE), (num_on_device, num_matched, Tier.HOST))
        for start, stop, tier in parts:
            if start < stop:
                self._pool.record(sequence.reused_run(start, stop, size, tier))
        if sequence.num_cached is None:
            sequence.num_cached = num_matched * size
            sequence.num_cached_on_host = (num_matched - num_on_device) * size

    def _plan_import(self, sequence: Sequence, start: int, limit: int, plan: StepPlan) -> int:
        """Fill blocks from `start` on with what was imported; the first block that is not filled."""
        imported, sequence.imported = sequence.imported, None
        if imported is None:
            return start
        stop = min(imported.first_block + len(imported.payloads), limit)
        if not imported.first_block <= start < stop:
            return start
        skipped = start - imported.first_block
        payloads = imported.payloads[skipped : skipped + stop - start]
        plan.imports.append(Import(sequence, start, payloads, imported.from_store))
        return stop

    def _plan_drafts(self, plan: StepPlan) -> None:
        """Extend works that sample; every running sequence keeps a block to grow into."""
        for index, work in enumerate(plan.work):
            budget = self._max_num_tokens - plan.num_tokens
            if budget == 0:
                return
            sequence = work.sequence
            draft = sequence.draft(budget) if work.num_samples else ()
            if draft and self._reserve(sequence, len(draft), plan):
                plan.work[index] = Work(sequence, work.num_tokens + len(draft), draft)
                plan.num_tokens += len(draft)

    def _reserve(self, sequence: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Have blocks for tokens beyond the sequence's own, if there are some to spare."""
        end = len(sequence.token_ids) + num_tokens
        missing = -(-end // self._pool.block_size) - len(sequence.block_ids)
        if missing <= 0:
            return True
        new = self._pool.acquire(
            (), missing, spare=len(self.running), origin=sequence.request.origin
        )
        if new is None:
            return False
        sequence.block_ids += new
        plan.new_block_ids += new
        return True

    def _num_kept(self, sequence: Sequence, reason: FinishReason) -> int:
        if not sequence.prefill_only or reason in {FinishReason.CANCELLED, FinishReason.ERROR}:
            return 0
        return sequence.num_prompt // self._pool.block_size

    def _finished_event(self, sequence: Sequence, reason: FinishReason) -> SequenceFinished:
        size = self._pool.block_size
        num_full = sequence.num_computed // size
        hashes = sequence.hashes(num_full, size)
        return SequenceFinished(
            origin=sequence.request.origin,
            context=sequence.context,
            prompt_tokens=sequence.num_prompt,
            cached_tokens=sequence.num_reused,
            generated_tokens=sequence.num_output,
            last_block_hash=hashes[-1] if hashes else None,
            num_full_blocks=num_full,
            tail_token_ids=sequence.token_ids[num_full * size :],
            finish_reason=reason,
            started_unix_ns=sequence.started_unix_ns,
        )

    def __repr__(self) -> str:
        return (
            f"<Scheduler {len(self.running)} running, {len(self.waiting)} waiting, "
            f"{len(self.held)} held>"
        )
