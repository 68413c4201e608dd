"""One step of the engine: plan, compute, sample, commit, tell.

    commands --> EngineCore.step() --> StepOutput: chunks and cache events, in order

Knows no thread and no event loop; whoever drives it calls from one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as ReadOnlyList
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

from tokenizers import Tokenizer

from shepherd_events.events import BlockHash, Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockPool
from shepherd_worker.engine.embedded.pace import Pace
from shepherd_worker.engine.embedded.runner import ProcessorCallError, Runner, Sample, Samples
from shepherd_worker.engine.embedded.scheduler import Scheduler, StepPlan, Work
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.embedded.stop_strings import StopStrings
from shepherd_worker.engine.protocol import CacheEvent, EngineStats
from shepherd_worker.engine.telemetry import EngineTelemetry, Waits
from shepherd_worker.errors import OverloadedError
from shepherd_worker.request import FinishReason, TokenChunk, Usage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """What one sequence brought forth."""

    sequence: Sequence
    result: TokenChunk | OverloadedError
    last: bool
    """Nothing follows."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step brought forth."""

    outputs: tuple[Output, ...]
    events: tuple[CacheEvent, ...]

    def __bool__(self) -> bool:
        return bool(self.outputs or self.events)


class BlockSaver(Protocol):
    """Who keeps blocks beyond this process."""

    def save(
        self,
        events: ReadOnlyList[CacheEvent],
        *,
        loaded: AbstractSet[BlockHash],
        read: Callable[[ReadOnlyList[BlockHash]], list[bytes]],
    ) -> None:
        """Take over what a step stored, without waiting; `loaded` are those it gave itself.

        `read` copies the records of the first blocks of a list, as far as it can.
        """
        ...


class EngineCore:
    """See the module's docstring."""

    def __init__(
        self,
        runner: Runner,
        pool: BlockPool,
        scheduler: Scheduler,
        tokenizer: Tokenizer | None,
        *,
        saver: BlockSaver | None = None,
        telemetry: EngineTelemetry | None = None,
    ) -> None:
        """`saver` keeps blocks beyond this process."""
        self._runner = runner
        self._pool = pool
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        telemetry = telemetry or EngineTelemetry()
        self._clock = telemetry.clock
        self._queue: Waits[Sequence] = Waits(telemetry.queue_wait, telemetry.clock)
        self._pace = Pace()
        self._saver = saver
        self._stop_strings: dict[Sequence, StopStrings] = {}
        self._outputs: list[Output] = []
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_cached_on_host_tokens = 0
        self._num_transferred_tokens = 0
        self._num_loaded_tokens = 0
        self._num_generated_tokens = 0
        self._num_drafts = 0
        self._num_drafted = 0
        self._num_accepted = 0
        self._num_failed = 0
        self._num_refused = 0
        self._num_ended = 0
        self._num_processor_failures = 0

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in; too many make it end with `OverloadedError`."""
        try:
            self._scheduler.add(sequence)
        except OverloadedError as full:
            wait_s = self._pace.seconds_for(full.num_waiting)
            refusal = OverloadedError(full.num_waiting, full.limit, wait_s)
            sequence.finish_reason = FinishReason.ERROR
            self._num_refused += 1
            self._outputs.append(Output(sequence, refusal, last=True))
            return
        self._queue.begin(sequence)
        stops = sequence.request.stops.stop
        if stops:
            assert self._tokenizer is not None
            self._stop_strings[sequence] = StopStrings(self._tokenizer, stops)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence, or let go of what an ended prefill holds."""
        if sequence in self._scheduler.held:
            self._scheduler.release(sequence)
        elif sequence.finish_reason is None:
            self._end(sequence, TokenChunk((), finish_reason=FinishReason.CANCELLED))

    def cancel_all(self) -> None:
        """End every sequence."""
        for sequence in (*self._scheduler.running, *self._scheduler.waiting):
            self.cancel(sequence)
        for sequence in tuple(self._scheduler.held):
            self.cancel(sequence)

    def num_cached_blocks(self, hashes: ReadOnlyList[BlockHash]) -> int:
        """How many leading blocks a hit would find; from any thread, as a hint."""
        return len(self._pool.match(hashes))

    def step(self) -> tuple[StepOutput, bool]:
        """Run one pass; what it brought forth, and whether another may follow at once."""
        self._pool.tick(self._clock())
        plan = self._scheduler.schedule()
        if plan.copies:
            self._runner.copy_blocks(plan.copies)
        if plan.work:
            self._note_begun(plan)
            begun, ended_before = self._clock(), self._num_ended
            self._import(plan)
            self._compute(plan)
            self._pace.step(self._clock() - begun, self._num_ended - ended_before)
        outputs, self._outputs = tuple(self._outputs), []
        events = self._pool.drain_events()
        if self._saver is not None and events:
            self._saver.save(events, loaded=self._loaded_hashes(plan), read=self._read_stored)
        return StepOutput(outputs, events), bool(plan.work)

    def _note_begun(self, plan: StepPlan) -> None:
        """Sequences that a pass computes for wait no more."""
        if self._queue:
            for work in plan.work:
                self._queue.end(work.sequence)

    def stats(self) -> EngineStats:
        """The engine's own counters."""
        counts, host = self._pool.counts(), self._pool.counts(Tier.HOST)
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            blocks_referenced=counts.referenced,
            blocks_cached=counts.free,
            blocks_empty=counts.empty,
            host_blocks_cached=host.free,
            host_blocks_empty=host.empty,
            prompt_tokens_total=self._num_prompt_tokens,
            prompt_tokens_cached_total=self._num_cached_tokens,
            prompt_tokens_cached_on_host_total=self._num_cached_on_host_tokens,
            prompt_tokens_transferred_total=self._num_transferred_tokens,
            prompt_tokens_loaded_total=self._num_loaded_tokens,
            generated_tokens_total=self._num_generated_tokens,
            blocks_stored_total=self._pool.num_stored_total,
            blocks_evicted_total=self._pool.num_evicted_total,
            blocks_offloaded_total=self._pool.num_offloaded_total,
            blocks_onboarded_total=self._pool.num_onboarded_total,
            preemptions_total=self._scheduler.num_preempted_total,
            requests_failed_total=self._num_failed,
            processor_failures_total=self._num_processor_failures,
            drafts_total=self._num_drafts,
            drafted_tokens_total=self._num_drafted,
            accepted_tokens_total=self._num_accepted,
            requests_refused_total=self._num_refused,
            images=self._runner.image_counts(),
        )

    def _import(self, plan: StepPlan) -> None:
        for planned in plan.imports:
            sequence, stop = planned.sequence, planned.start + len(planned.payloads)
            self._runner.write_blocks(sequence.block_ids[planned.start : stop], planned.payloads)
            num_tokens = len(planned.payloads) * self._pool.block_size
            if planned.from_store:
                sequence.num_loaded = num_tokens
            else:
                sequence.num_transferred = num_tokens
            self._scheduler.mark_computed(sequence, num_tokens)

    def _loaded_hashes(self, plan: StepPlan) -> frozenset[BlockHash]:
        loaded: set[BlockHash] = set()
        for planned in plan.imports:
            if planned.from_store:
                stop = planned.start + len(planned.payloads)
                loaded.update(planned.sequence.hashes(stop, self._pool.block_size)[planned.start :])
        return frozenset(loaded)

    def _read_stored(self, hashes: ReadOnlyList[BlockHash]) -> list[bytes]:
        """The records of the first blocks, as far as they lie on the device."""
        found = takewhile(lambda block: block.tier is Tier.DEVICE, self._pool.match(hashes))
        return self._runner.read_blocks([block.block_id for block in found])

    def _compute(self, plan: StepPlan) -> None:
        results = self._runner.forward(plan)
        for work, samples in zip(plan.work, results, strict=True):
            num_before = work.sequence.num_output
            self._scheduler.mark_computed(work.sequence, work.num_known)
            self._take(work.sequence, samples)
            if work.draft:
                self._settle(work, work.sequence.num_output - num_before - 1)

    def _take(self, sequence: Sequence, samples: Samples) -> None:
        """Append samples one by one; those after the end of the sequence are dropped."""
        for index, sample in enumerate(samples):
            if index:
                self._scheduler.mark_computed(sequence, 1)
            if isinstance(sample, Sample):
                self._advance(sequence, sample)
            else:
                self._fail(sequence, sample)
            if sequence.finish_reason is not None:
                return

    def _settle(self, work: Work, num_accepted: int) -> None:
        self._num_drafts += 1
        self._num_drafted += len(work.draft)
        self._num_accepted += max(0, num_accepted)
        if work.sequence.finish_reason is None:
            self._scheduler.settle(work.sequence, len(work.draft), num_accepted)

    def _advance(self, sequence: Sequence, sample: Sample) -> None:
        """Append a token and end the sequence where it ends; its failure is its own."""
        if sequence.num_output == 0:
            self._num_prompt_tokens += sequence.num_prompt
            self._num_cached_tokens += sequence.num_cached or 0
            self._num_cached_on_host_tokens += sequence.num_cached_on_host
            self._num_transferred_tokens += sequence.num_transferred
            self._num_loaded_tokens += sequence.num_loaded
        sequence.token_ids.append(sample.token_id)
        self._num_generated_tokens += 1
        try:
            reason, stop_reason = self._ending(sequence, sample)
        except Exception as error:  # noqa: BLE001 - a request's edge; `_fail` logs and counts it
            self._fail(sequence, error)
            return
        logprobs = () if sample.logprob is None else (sample.logprob,)
        chunk = TokenChunk((sample.token_id,), logprobs, reason, stop_reason)
        if reason is None and not sequence.prefill_only:
            self._outputs.append(Output(sequence, chunk, last=False))
        else:
            self._end(sequence, chunk)

    def _ending(
        self, sequence: Sequence, sample: Sample
    ) -> tuple[FinishReason | None, str | int | None]:
        """Whether the newest token ends the sequence, and what in it does."""
        stops, token_id = sequence.request.stops, sample.token_id
        watched = self._stop_strings.get(sequence)
        stop_string = watched.push(token_id) if watched else None
        if sequence.num_output > stops.min_tokens:
            if token_id in sequence.eos_token_ids and not stops.ignore_eos:
                return FinishReason.EOS, None
            if token_id in stops.stop_token_ids:
                return FinishReason.STOP, token_id
            if stop_string is not None:
                return FinishReason.STOP, stop_string
        if sample.completes:
            return FinishReason.STOP, None
        if sequence.num_output >= sequence.max_tokens:
            return FinishReason.LENGTH, None
        return None, None

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._num_failed += 1
        self._num_processor_failures += isinstance(error, ProcessorCallError)
        log.error("request %s failed", sequence.request.request_id, exc_info=error)
        self._end(sequence, TokenChunk((), finish_reason=FinishReason.ERROR))

    def _end(self, sequence: Sequence, chunk: TokenChunk) -> None:
        """Finish a sequence with its last chunk; a prefill's is not the answer's last."""
        self._stop_strings.pop(sequence, None)
        self._queue.drop(sequence)
        self._num_ended += 1
        self._scheduler.finish(sequence, chunk.finish_reason or FinishReason.LENGTH)
        usage = Usage(sequence.num_prompt, sequence.num_reused, sequence.num_output)
        self._outputs.append(Output(sequence, replace(chunk, usage=usage), last=True))
