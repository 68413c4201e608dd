"""From a request's retention to its blocks, and when a block's time is over.  Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from shepherd_worker.engine.embedded.cache.cached_block import CachedBlock
from shepherd_worker.request import Retention


@dataclass(frozen=True, slots=True)
class BlockRetention:
    """How much one block is worth keeping."""

    priority: int
    duration_s: float | None
    """From its last use; None is for ever."""


def block_retention(
    retention: Retention, num_prompt: int, start: int, stop: int
) -> BlockRetention | None:
    """What covers tokens [start, stop) of a sequence; None where nothing does."""
    covering = [
        (covered.priority, _or_for_ever(covered.duration_s))
        for covered in retention.ranges
        if start < min(_or_for_ever(covered.stop), num_prompt) and covered.start < stop
    ]
    if stop > num_prompt:
        covering.append((retention.decode_priority, _or_for_ever(retention.decode_duration_s)))
    if not covering:
        return None
    priority, duration_s = max(covering)
    return BlockRetention(priority, None if math.isinf(duration_s) else duration_s)


def _or_for_ever(value: float | None) -> float:
    return math.inf if value is None else value


class Deadlines:
    """When the priorities of blocks end; a block is queued once however often it is used.

    Blocks that are cached no more, whose duration is None, are left out whenever
    the queue has doubled.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, CachedBlock]] = []
        self._max_len = 64
        self._num_added = 0

    def used(self, block: CachedBlock, now_s: float) -> None:
        """A block was let go of: its duration begins."""
        if block.duration_s is not None:
            block.due_s = now_s + block.duration_s
            self._queue(block)

    def ended(self, now_s: float) -> Iterator[CachedBlock]:
        """Idle blocks whose duration is over; one in use is told of after its next use."""
        while self._heap and self._heap[0][0] <= now_s:
            _, _, block = heapq.heappop(self._heap)
            block.queued_s = math.inf
            if block.references > 0 or block.duration_s is None:
                continue
            if block.due_s <= now_s:
                yield block
            else:
                self._queue(block)

    def _queue(self, block: CachedBlock) -> None:
        if block.due_s < block.queued_s:
            block.queued_s = block.due_s
            self._num_added += 1
            heapq.heappush(self._heap, (block.due_s, self._num_added, block))
        if len(self._heap) > self._max_len:
            self._heap = [entry for entry in self._heap if entry[2].duration_s is not None]
            heapq.heapify(self._heap)
            self._max_len = 2 * len(self._heap) + 64
