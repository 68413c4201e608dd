"""Carries notices from a tenant's outbox to a sink: in order, at least once.

    outbox        position of the sink        sink
    1 2 3 4 5     3                           is handed 4, then 5
                  moves on when the sink has taken a notice, in the tenant's store

The rows of the outbox were written together with the turns that they tell of,
and the sink's position is kept in the same store: a crash at any point loses
nothing and repeats at most the last notice, whose id is the same.  A sink that
fails is tried again, later and later; what it has refused for good, or for too
long, becomes a dead letter of the tenant, and the next notice has its turn.

Whether a session was told is another matter: only `acknowledge` says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.records import DeadLetter, StoredNotice
from shepherd_memory.memory import Means

log = logging.getLogger(__name__)

RETRY_AFTER_S = (5, 30, 120, 600, 1800, 3600, 3600, 7200)
"""Pauses between the tries of one notice, about five hours together."""
SINK_PREFIX = "sink:"
"""Begins the names of sinks' positions and dead letters."""
_EPOCH = 1
"""Of a sink's position; the sequence is the notice's position in the outbox."""


class SinkUnavailableError(Exception):
    """The sink did not take a notice; trying again may help."""


class SinkRefusedError(Exception):
    """The sink will not take this notice, however often it is tried."""


class Sink(Protocol):
    """Where notices go."""

    @property
    def name(self) -> str:
        """Unique for ever: the sink's position is kept under it."""
        ...

    async def deliver(self, row: StoredNotice) -> None:
        """Hand over a notice; taken when this returns.

        Raises:
            SinkUnavailableError: not now.
            SinkRefusedError: never.
        """
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One tenant's notices to one sink; event loop only."""

    tenant: str
    """The name of its archive."""
    sink: Sink
    means: Means
    retry_after_s: Sequence[float] = RETRY_AFTER_S

    async def catch_up(self) -> None:
        """Deliver everything that the outbox holds."""
        after = await self.position()
        while rows := await asyncio.to_thread(self._rows, after):
            for row in rows:
                await self._deliver(row)
            after = rows[-1].position

    async def position(self) -> int:
        """The place in the outbox up to which everything was taken or given up."""
        return await self.means.writer.run(self._position)

    async def _deliver(self, row: StoredNotice) -> None:
        outcomes = self.means.metrics.deliveries
        try:
            await self._until_taken(row)
        except SinkRefusedError as error:
            outcomes.labels(self.sink.name, "given_up").inc()
            log.error("%s: a notice became a dead letter: %s", self.sink.name, error)  # noqa: TRY400 - no bug of ours
            await self.means.writer.run(
                partial(self._move_on, row, self._dead_letter(row, str(error)))
            )
        else:
            outcomes.labels(self.sink.name, "delivered").inc()
            await self.means.writer.run(partial(self._move_on, row))

    async def _until_taken(self, row: StoredNotice) -> None:
        """Try, pause, try again.

        Raises:
            SinkRefusedError: the sink will not take it, or did not in the time there is.
        """
        told = self.means.in_words(row)
        for pause_s in self.retry_after_s:
            try:
                await self.sink.deliver(told)
            except SinkUnavailableError as error:
                self.means.metrics.deliveries.labels(self.sink.name, "retried").inc()
                log.warning("%s did not take a notice: %s", self.sink.name, error)
                await asyncio.sleep(pause_s)
            else:
                return
        try:
            await self.sink.deliver(told)
        except SinkUnavailableError as error:
            tries = len(self.retry_after_s) + 1
            raise SinkRefusedError(f"not taken in {tries} tries: {error}") from error

    def _rows(self, after: int) -> list[StoredNotice]:
        archive = self.means.archives.of(self.tenant)
        return archive.notices(session=None, state=None, after=after, limit=100)

    def _position(self) -> int:
        with self.means.archives.of(self.tenant).writing() as writer:
            at = writer.position(self._name)
        return 0 if at is None else at.seq

    def _move_on(self, row: StoredNotice, given_up: DeadLetter | None = None) -> None:
        """In one transaction, so that a notice is never lost between its two places."""
        with self.means.archives.of(self.tenant).writing() as writer:
            if given_up is not None:
                writer.put_dead_letter(given_up)
            writer.advance(self._name, Position(_EPOCH, row.position))

    def _dead_letter(self, row: StoredNotice, reason: str) -> DeadLetter:
        return DeadLetter(
            name=f"{self._name} {row.notice.notice_id}",
            session=row.notice.session_id,
            reason=reason,
            payload=json.dumps(asdict(row.notice)).encode(),
            created_unix_ns=self.means.clocks.unix_ns(),
        )

    @property
    def _name(self) -> str:
        return SINK_PREFIX + self.sink.name


async def deliver_every_tenants(sink: Sink, means: Means) -> None:
    """Deliver what the outboxes of all tenants hold to one sink, one tenant after another."""
    for tenant in await asyncio.to_thread(means.archives.tenants):
        await Delivery(tenant, sink, means).catch_up()
