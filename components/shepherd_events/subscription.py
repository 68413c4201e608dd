"""The receiving side of one stream: every frame once and in order, or a reset.

There is no task: a reader that asks for the next item drives everything, and at
most one page of items waits to be handed out.  What nobody reads waits in the
transport's bounded queue, is dropped there when that overflows, and is then a
gap like any other:

    known                                  what is done                  state
    ------------------------------------   ---------------------------   -----------
    nothing about the head (start,         replay from the position on   CATCHING_UP
      a frame that was garbage)
    frames beyond the position exist       replay from the position on   CATCHING_UP
    a loss that no replay can repair       snapshot, handed out as       STALE
                                             Reset; replay from there
    a higher epoch                         Reset to nothing, replay      CATCHING_UP
    another digest than the head's        snapshot, as after a loss     STALE
    a request failed                       again, later and later; live  STALE
                                             frames in order still count
    no sign of life, or a goodbye          replay from the position on   STALE
    everything up to the head              listen                        LIVE

A frame that arrives beyond a gap is not kept: the replay brings it again, and
duplicates are dropped.  Frames of lower epochs are never handed out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from shepherd_events.control import Status
from shepherd_events.control_client import ControlClient
from shepherd_events.errors import KvEventsError, RequestFailedError
from shepherd_events.event_filter import StreamFilter
from shepherd_events.events import Frame, Goodbye, Heartbeat, StreamAddress, Tombstone
from shepherd_events.frame_intake import FrameIntake
from shepherd_events.retry_schedule import RetrySchedule
from shepherd_events.stream_cursor import (
    Deliver,
    Duplicate,
    Gap,
    NewEpoch,
    Position,
    StreamCursor,
    Verdict,
)
from shepherd_events.subscription_types import (
    Item,
    Patience,
    Reset,
    ResetReason,
    Residents,
    StreamState,
    SubscriptionCounters,
)
from shepherd_events.transports.protocol import SubscriberTransport

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

logger = logging.getLogger(__name__)

_ITEMS_BETWEEN_PAUSES = 64
"""Items after which other tasks get their turn, however much is waiting."""


class Subscription:
    """An endless iterator of items; may be cancelled at any item and asked again."""

    def __init__(
        self,
        address: StreamAddress,
        transport: SubscriberTransport,
        position: Position,
        *,
        from_head: bool,
        residents: Residents | None,
        wanted: StreamFilter | None,
        keys: TenantKeys | None,
        patience: Patience,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._address = address
        self._transport = transport
        self._control = ControlClient(
            address.stream,
            transport,
            timeout_s=patience.request_s,
            page_bytes=patience.page_bytes,
        )
        self._patience = patience
        self._clock = clock
        self._cursor = StreamCursor(position)
        self._position = position
        self._from_head = from_head
        self._residents = residents
        self._wanted = wanted
        self._intake = FrameIntake(address.stream, keys)
        self._ready: deque[Item] = deque()
        self._head_unknown = True
        self._lost: ResetReason | None = None
        """Why only a snapshot helps, if so."""
        self._heard_at = clock()
        self._departed = False
        """The publisher said goodbye."""
        self._schedule = RetrySchedule(patience, clock, random)
        self._items = 0
        self._frames = self._gaps = self._replays = self._snapshots = 0
        self._duplicates = self._failed_requests = 0
        self._digest_checks = self._digest_mismatches = 0

    @property
    def position(self) -> Position:
        """Of the last item handed out: where another subscription would go on."""
        return self._position

    @property
    def num_ready(self) -> int:
        """Items that are handed out next without waiting."""
        return len(self._ready)

    @property
    def num_behind(self) -> int:
        """Frames that are known to exist and were not handed out."""
        gap = self._cursor.gap
        return len(self._ready) + (gap.stop - gap.first if gap else 0)

    @property
    def state(self) -> StreamState:
        """How much what was handed out says about the publisher's cache now."""
        behind = self._is_behind
        silent = self._clock() > self._heard_at + self._patience.silence_s
        gone = self._departed and not self._ready
        if self._lost is not None or silent or gone or (behind and self._schedule.failures):
            return StreamState.STALE
        if behind or self._ready:
            return StreamState.CATCHING_UP
        return StreamState.LIVE

    @property
    def counters(self) -> SubscriptionCounters:
        """Totals since the subscription began."""
        return SubscriptionCounters(
            frames=self._frames,
            gaps=self._gaps,
            replays=self._replays,
            snapshots=self._snapshots,
            duplicates=self._duplicates,
            decode_errors=self._intake.num_refused,
            corrupt=self._intake.num_corrupt,
            digest_checks=self._digest_checks,
            digest_mismatches=self._digest_mismatches,
            failed_requests=self._failed_requests,
        )

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Item:
        while True:
            item = await self._next()
            shown = item if self._wanted is None else self._wanted.apply(item)
            if shown is not None:
                return shown

    async def _next(self) -> Item:
        """The next item, whether it is wanted or not."""
        self._items += 1
        if self._items % _ITEMS_BETWEEN_PAUSES == 0:
            await asyncio.sleep(0)
        while not self._ready:
            if self._is_behind and self._clock() >= self._recovery_at:
                await self._recover()
            else:
                await self._listen()
        item = self._ready.popleft()
        if isinstance(item, Reset):
            self._position = Position(item.epoch, item.as_of_seq)
        else:
            self._position = Position(item.epoch, item.seq)
            self._frames += 1
        if self._residents is not None:
            self._residents.follow(item)
        return item

    # ---- What is received

    async def _listen(self) -> None:
        """Take one live frame, or find out that none came; after a silence, listen anew."""
        behind = self._is_behind
        until = self._recovery_at if behind else self._heard_at + self._patience.silence_s
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                payload = await self._transport.receive()
        except TimeoutError:
            self._head_unknown = True
            if not behind:
                self._transport.renew()
            return
        frame = self._intake.read(payload)
        if frame is None:
            self._head_unknown = True
        else:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        """Do with a frame what the cursor says of it."""
        if self._from_head:
            return
        was_gap = self._cursor.gap is not None
        verdict = self._observe(frame)
        if isinstance(verdict, NewEpoch):
            self._restart(verdict.epoch)
            verdict = self._observe(frame)
        if frame.epoch == self._cursor.position.epoch:
            self._heard_at = self._clock()
            self._head_unknown = False
        if isinstance(frame.body, Heartbeat) and frame.epoch == self._position.epoch:
            self._check_digest(frame.body)
        match verdict:
            case Deliver():
                self._deliver(frame)
            case Duplicate():
                self._duplicates += 1
            case Gap() if not was_gap:
                self._gaps += 1
            case _:
                pass

    def _check_digest(self, heartbeat: Heartbeat) -> None:
        """Compare what was handed out with the publisher's cache, if both are at one frame."""
        if self._residents is None or self._lost is not None:
            return
        if self._ready or heartbeat.head_seq != self._position.seq:
            return
        held = self._residents.digest()
        if held is None:
            return
        self._digest_checks += 1
        if held == heartbeat.tiers:
            return
        self._digest_mismatches += 1
        self._lost = ResetReason.DIVERGED
        logger.warning(
            "another digest than the publisher's: %s instead of %s",
            held,
            heartbeat.tiers,
            extra={"stream": str(self._address.stream)},
        )

    def _observe(self, frame: Frame) -> Verdict | None:
        """The cursor's verdict; while a snapshot is waited for, frames only tell of the head."""
        if self._lost is not None or isinstance(frame.body, Heartbeat):
            return self._cursor.observe_head(frame.epoch, frame.seq)
        first_seq = frame.body.from_seq if isinstance(frame.body, Tombstone) else frame.seq
        return self._cursor.observe(frame.epoch, frame.seq, first_seq=first_seq)

    def _deliver(self, frame: Frame) -> None:
        if isinstance(frame.body, Tombstone):
            self._lost = ResetReason.LOST
            return
        self._ready.append(frame)
        if isinstance(frame.body, Goodbye):
            self._departed = True

    def _restart(self, epoch: int) -> None:
        """The cursor has entered a higher epoch: what lower ones held is gone."""
        self._lost = None
        self._departed = False
        self._head_unknown = True
        self._schedule.forget_failures()
        self._ready.append(Reset(epoch, 0, (), ResetReason.RESTARTED))

    # ---- What is asked for

    @property
    def _is_behind(self) -> bool:
        unknown = self._head_unknown or self._from_head
        return unknown or self._lost is not None or self._cursor.gap is not None

    @property
    def _recovery_at(self) -> float:
        return self._schedule.due_at(for_snapshot=self._lost is not None)

    async def _recover(self) -> None:
        """Ask once for what is missing; on failure, let some time pass before the next."""
        try:
            if self._from_head:
                await self._skip_to_head()
            elif self._lost is None:
                await self._replay()
            else:
                await self._reset(self._lost)
        except KvEventsError as error:
            self._failed_requests += 1
            self._schedule.failed(error)
            logger.info("recovery failed: %s", error, extra={"stream": str(self._address.stream)})
        else:
            self._schedule.forget_failures()

    async def _skip_to_head(self) -> None:
        self._position = await self._control.head(self._cursor.position.epoch)
        self._cursor = StreamCursor(self._position)
        self._from_head = False
        self._head_unknown = False
        self._heard_at = self._clock()

    async def _replay(self) -> None:
        before = self._cursor.position
        reply = await self._control.replay(before.epoch, self._cursor.next_seq)
        self._replays += 1
        match reply.status:
            case Status.WRONG_EPOCH:
                self._enter_epoch(reply.epoch)
            case Status.COMPACTED:
                self._lost = ResetReason.COMPACTED
            case Status.AHEAD:
                self._lost = ResetReason.RESTARTED
            case _:
                self._take_page(reply.frames)
                self._cursor.observe_head(reply.epoch, reply.head_seq)
                self._head_unknown = False
                self._heard_at = self._clock()
                if self._is_behind and self._cursor.position == before and self._lost is None:
                    raise RequestFailedError(f"no replay brings frame {self._cursor.next_seq}")

    def _take_page(self, payloads: tuple[bytes, ...]) -> None:
        for payload in payloads:
            frame = self._intake.read(payload)
            if frame is None:
                self._lost = ResetReason.UNDECODABLE
                return
            self._take(frame)

    def _enter_epoch(self, epoch: int) -> None:
        if self._cursor.observe_head(epoch, 0) is None:
            raise RequestFailedError(
                f"the publisher is at epoch {epoch}, behind {self._cursor.position.epoch}"
            )
        self._restart(epoch)

    async def _reset(self, reason: ResetReason) -> None:
        snapshot = await self._control.snapshot()
        epoch = self._cursor.position.epoch
        if snapshot.position.epoch < epoch:
            raise RequestFailedError(
                f"a snapshot of epoch {snapshot.position.epoch}, behind {epoch}"
            )
        if snapshot.position.epoch > epoch:
            reason = ResetReason.RESTARTED
        blocks = self._intake.open_runs(snapshot)
        self._snapshots += 1
        self._cursor = StreamCursor(snapshot.position)
        self._lost = None
        self._head_unknown = True
        self._heard_at = self._clock()
        self._schedule.snapshot_taken()
        self._ready.append(Reset(snapshot.position.epoch, snapshot.position.seq, blocks, reason))
