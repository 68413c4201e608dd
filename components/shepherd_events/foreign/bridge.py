"""Reads a foreign publisher and publishes what it says as streams of ours.

What is published is what the translator holds, whatever becomes of the source:

    source                                  what is done
    -------------------------------------   ------------------------------------
    comes, or comes again                   replay from the last message on
      without replay, again                 all is declared gone
    a number is missing                     replay; if that does not bring it,
                                              all is declared gone
    is another run than before              all is declared gone, replay from 0
    is gone for `gone_after_s`              all is declared gone
    says nothing for `probe_s`              replay: its last message may be lost
    says what makes no sense                all is declared gone, if it may have
                                              removed something

"Gone" is the truth about what can be known, and heals as blocks are stored anew.
The epoch of the streams is the bridge's own: they live on through all of this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from shepherd_events.block_runs import part_of
from shepherd_events.errors import CodecError, NoAnswerError
from shepherd_events.events import BlockEvent, BlocksStored
from shepherd_events.foreign.cursor import ForeignCursor, Verdict
from shepherd_events.foreign.dialects import Dialect
from shepherd_events.foreign.events import ForeignBatch, ForeignStored
from shepherd_events.foreign.msgpack_form import decode_batch
from shepherd_events.foreign.source import (
    Connected,
    Disconnected,
    ForeignSource,
    Message,
    SourceEvent,
)
from shepherd_events.foreign.translator import Translator, TranslatorCounts

logger = logging.getLogger(__name__)

MAX_RANKS = 64
_ATTEMPTS = 3
"""Replays in a row that bring nothing before what is missing counts as lost."""
_RUN_BLOCKS = 1024
"""Longest run that is told at once."""
_LONGEST_WAIT_S = 60.0


class Sink(Protocol):
    """Where a rank's events go; never waits, never fails."""

    def publish(self, events: Sequence[BlockEvent]) -> None:
        """Append events, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePatience:
    """When a bridge gives up on something."""

    probe_s: float = 5.0
    """Silence after which a replay is asked for, where there is one."""
    gone_after_s: float = 10.0
    """Time without a connection after which a source counts as gone."""


@dataclass(slots=True)
class BridgeCounts:
    """Totals since the start."""

    messages: int = 0
    duplicates: int = 0
    gaps: int = 0
    """Times that a live message told that others are missing."""
    gaps_unrecovered: int = 0
    """Times that something was missing and could not be had."""
    restarts: int = 0
    """Times that another run of the publisher answered."""
    departures: int = 0
    """Times that the publisher was gone for good."""
    replays: int = 0
    failed_replays: int = 0
    undecodable: int = 0
    """Messages that hold no batch."""
    ranks_refused: int = 0
    """Messages of more ranks than a bridge has streams for."""


@dataclass(slots=True)
class _Rank:
    translator: Translator
    sink: Sink


class Bridge:
    """One source; event loop only."""

    def __init__(
        self,
        source: ForeignSource,
        dialect: Dialect,
        open_stream: Callable[[int, int], Sink],
        *,
        model: str,
        rank: int = 0,
        block_size: int = 0,
        max_blocks: int = 1_000_000,
        harmless: frozenset[str] = frozenset(),
        patience: BridgePatience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_stream` is given a rank and its block size, once for each rank.

        `rank` is that of messages which do not say; with a `block_size` its stream
        is opened at once, else each when its first blocks tell theirs.
        """
        self._source = source
        self._dialect = dialect
        self._open_stream = open_stream
        self._model = model
        self._rank = rank
        self._block_size = block_size
        self._max_blocks = max_blocks
        self._harmless = harmless
        self._patience = patience or BridgePatience()
        self._clock = clock
        self._cursor = ForeignCursor()
        self._ranks: dict[int, _Rank] = {}
        self._was_connected = False
        self._gone_at: float | None = None
        """When a source that is not connected counts as gone."""
        self._probe_at = clock() + self._patience.probe_s
        self.counts = BridgeCounts()
        if block_size:
            self._open(rank, block_size)

    async def run(self) -> None:
        """Read until cancelled; what `open_stream` raises ends it."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Wait for the next thing and deal with it."""
        due = self._probe_at if self._gone_at is None else self._gone_at
        event = await self._source.next(min(due - self._clock(), _LONGEST_WAIT_S))
        if event is not None:
            await self._deal_with(event)
        elif self._clock() >= due:
            await self._nothing_came()

    @property
    def is_connected(self) -> bool:
        """Whether the source is there."""
        return self._was_connected and self._gone_at is None

    @property
    def num_foreign(self) -> int:
        """Messages that have not the parts of a numbered one."""
        return self._source.num_foreign

    @property
    def translations(self) -> dict[int, TranslatorCounts]:
        """What became of each rank's events."""
        return {rank: each.translator.counts for rank, each in self._ranks.copy().items()}

    async def _deal_with(self, event: SourceEvent) -> None:
        match event:
            case Connected():
                await self._connected()
            case Disconnected():
                self._gone_at = self._clock() + self._patience.gone_after_s
            case Message():
                self._probe_at = self._clock() + self._patience.probe_s
                await self._heard(event)

    async def _connected(self) -> None:
        again, self._was_connected, self._gone_at = self._was_connected, True, None
        logger.info("the source is connected", extra={"again": again})
        if self._source.can_replay:
            if not await self._catch_up() and again:
                self._forget("it does not answer whether it is the same one")
        elif again:
            self._forget("it came again and can repeat nothing")

    async def _nothing_came(self) -> None:
        self._probe_at = self._clock() + self._patience.probe_s
        if self._gone_at is not None:
            self._gone_at = float("inf")
            self.counts.departures += 1
            self._forget("it is gone")
        elif self._source.can_replay and self._was_connected:
            await self._catch_up()

    async def _heard(self, message: Message) -> None:
        verdict = self._cursor.live(message.seq, message.payload)
        if verdict is Verdict.GAP:
            self.counts.gaps += 1
            verdict = await self._close_gap(message)
        if verdict is Verdict.RESTARTED:
            self.counts.restarts += 1
            self._forget("it was started anew")
            if self._source.can_replay:
                await self._catch_up()
            verdict = self._cursor.live(message.seq, message.payload)
        self._follow(verdict, message)

    async def _close_gap(self, message: Message) -> Verdict:
        """The verdict on a message after a replay, or after giving up on what is missing."""
        if self._source.can_replay and await self._catch_up():
            verdict = self._cursor.live(message.seq, message.payload)
            if verdict is not Verdict.GAP:
                return verdict
        self._give_up_gap(f"messages {self._cursor.expected} .. {message.seq - 1} are lost")
        return self._cursor.live(message.seq, message.payload)

    # ---- Replays

    async def _catch_up(self, attempts: int = _ATTEMPTS) -> bool:
        """Replay until nothing is missing; False where the source does not come to an end.

        Of `attempts` in a row that bring nothing, the last takes what there is.
        """
        left = attempts
        while left:
            before = self.counts.messages
            match await self._replay(is_last=left == 1):
                case Verdict.DUPLICATE:
                    return True
                case Verdict.RESTARTED:
                    self.counts.restarts += 1
                    self._forget("it was started anew")
                case Verdict.LOST:
                    self._give_up_gap("what is missing is kept no longer")
            left = attempts if self.counts.messages > before else left - 1
        return False

    async def _replay(self, *, is_last: bool) -> Verdict | None:
        """What one replay proved: DUPLICATE that all is here, GAP to ask again; None for no end."""
        self.counts.replays += 1
        try:
            async with aclosing(self._source.replay(self._cursor.begin_replay())) as replay:
                async for message in replay:
                    verdict = self._cursor.replayed(message.seq, message.payload)
                    if verdict is Verdict.GAP and is_last:
                        self._give_up_gap("no replay brings what is missing")
                        verdict = self._cursor.replayed(message.seq, message.payload)
                    self._follow(verdict, message)
                    if verdict not in {Verdict.DELIVER, Verdict.DUPLICATE}:
                        return verdict
        except NoAnswerError as error:
            self.counts.failed_replays += 1
            logger.warning("%s", error)
            return None
        return self._cursor.end_replay()

    def _give_up_gap(self, reason: str) -> None:
        self.counts.gaps_unrecovered += 1
        self._forget(reason)

    def _follow(self, verdict: Verdict, message: Message) -> None:
        if verdict is Verdict.DELIVER:
            self.counts.messages += 1
            self._deliver(message.payload)
        elif verdict is Verdict.DUPLICATE:
            self.counts.duplicates += 1

    # ---- Blocks

    def _deliver(self, payload: bytes) -> None:
        try:
            batch = decode_batch(payload, self._dialect, self._harmless)
        except CodecError as error:
            self.counts.undecodable += 1
            logger.warning("a message holds no batch: %s", error)
            self._tell_all_gone()
            return
        rank = self._rank_of(batch)
        if rank is not None:
            _tell(rank, rank.translator.translate(batch.events))

    def _rank_of(self, batch: ForeignBatch) -> _Rank | None:
        number = self._rank if batch.dp_rank is None else batch.dp_rank
        rank = self._ranks.get(number)
        if rank is not None:
            return rank
        sizes = (e.block_size for e in batch.events if isinstance(e, ForeignStored) and e.token_ids)
        block_size = self._block_size or next(sizes, 0)
        if not block_size:
            return None  # nothing was ever stored that could be removed
        if len(self._ranks) == MAX_RANKS:
            self.counts.ranks_refused += 1
            return None
        return self._open(number, block_size)

    def _open(self, number: int, block_size: int) -> _Rank:
        sink = self._open_stream(number, block_size)
        rank = _Rank(Translator(self._model, block_size, self._max_blocks), sink)
        self._ranks[number] = rank
        return rank

    def _forget(self, reason: str) -> None:
        """Nothing that is known of the source can be relied on."""
        if self._cursor.expected is not None:
            logger.warning("all blocks are declared gone: %s", reason)
        self._cursor.reset()
        self._tell_all_gone()

    def _tell_all_gone(self) -> None:
        for rank in self._ranks.values():
            _tell(rank, rank.translator.lose())


def _tell(rank: _Rank, events: Sequence[BlockEvent]) -> None:
    """Publish one by one, which may share frames, so that no frame grows too large."""
    for event in events:
        for part in _parts(event):
            rank.sink.publish((part,))


def _parts(event: BlockEvent) -> Iterator[BlockEvent]:
    if not isinstance(event, BlocksStored):
        yield event
        return
    num_blocks = len(event.block_hashes)
    for start in range(0, num_blocks, _RUN_BLOCKS):
        yield part_of(event, start, min(start + _RUN_BLOCKS, num_blocks))
