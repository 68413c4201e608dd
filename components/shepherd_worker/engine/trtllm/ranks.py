"""The ledgers of all attention ranks, and which of them has a request's blocks.

With attention data parallelism each rank computes requests of its own and keeps
a cache of its own; a sequence's blocks all lie on one.  Where Dynamo's router
chose the rank it is known; else the blocks tell, and where they do not (a
sequence shorter than a block, or several alike at once) the rank that holds the
longest beginning of the sequence tells its end.  Pure, as the ledgers are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shepherd_events.events import Tier
from shepherd_worker.engine.protocol import CacheEvent
from shepherd_worker.engine.trtllm.kv_events import BlockName, KvEvent
from shepherd_worker.engine.trtllm.ledger import Ledger
from shepherd_worker.engine.trtllm.ledger_block import TIERS, LedgerCounts
from shepherd_worker.engine.trtllm.tracks import Track, TrackIndex
from shepherd_worker.request import FinishReason


class Ledgers:
    """See the module's docstring."""

    def __init__(self, block_size: int, model_fingerprint: bytes, num_ranks: int = 1) -> None:
        self.counts = LedgerCounts()
        """Of all ranks together."""
        self.tracks = TrackIndex(block_size)
        self._of = tuple(
            Ledger(
                block_size,
                model_fingerprint,
                rank=rank,
                tracks=self.tracks,
                counts=self.counts,
            )
            for rank in range(num_ranks)
        )
        self._homeless: dict[Track, float] = {}
        """Ended sequences whose rank is not known, and until when that may wait."""

    @property
    def num_resident(self) -> dict[Tier, int]:
        """Blocks that readers believe to be on each tier; any thread may read it."""
        return {tier: sum(each.num_resident[tier] for each in self._of) for tier in TIERS.values()}

    def apply(self, rank: int, event: KvEvent) -> None:
        """Take one event of a rank."""
        self._of[rank].apply(event)

    def unfinished_owners(self, rank: int, names: Iterable[BlockName]) -> list[Track]:
        """See `Ledger.unfinished_owners`."""
        return self._of[rank].unfinished_owners(names)

    def hit(self, track: Track, num_cached: int) -> None:
        """A request found `num_cached` tokens of its prompt in the cache of its rank."""
        self._home(track).hit(track, num_cached)

    def finish(self, track: Track, reason: FinishReason, num_cached: int, deadline: float) -> None:
        """A request ended; its end is told by `settle`, at the latest after `deadline`."""
        track.num_cached = num_cached
        track.finish_reason = reason
        if track.rank is None:
            self._homeless[track] = deadline
        else:
            self._of[track.rank].finish(track, deadline)

    def settle(self, now: float) -> None:
        """Tell the ends of the sequences whose blocks are all there, or whose time is over."""
        for track, deadline in tuple(self._homeless.items()):
            home = self._home(track)
            if track.rank is not None or now >= deadline or home.is_complete(track):
                del self._homeless[track]
                home.finish(track, deadline)
        for ledger in self._of:
            ledger.settle(now)

    def drain(self) -> Iterator[tuple[int, tuple[CacheEvent, ...]]]:
        """What happened on each rank since the last call, in order; nothing of idle ranks."""
        for rank, ledger in enumerate(self._of):
            if told := ledger.drain():
                yield rank, told

    def _home(self, track: Track) -> Ledger:
        """The rank that has a request's blocks, as far as can be told."""
        if track.rank is not None:
            return self._of[track.rank]
        return max(self._of, key=lambda ledger: ledger.num_told(track))
