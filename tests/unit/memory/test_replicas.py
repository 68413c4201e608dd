"""Who follows the streams: whoever holds the lease, and nobody who may have lost it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shepherd_memory.errors import LeaseLostError, StoreUnavailableError
from shepherd_memory.replicas import Replica

DEADLINE_S = 10


class ToldLease:
    """A lease that does what it is told."""

    ttl_s = 0.06

    def __init__(self) -> None:
        self.is_free = True
        self.is_ours = True
        self.is_down = False
        self.released = 0

    def acquire(self) -> bool:
        self._reach()
        return self.is_free

    def renew(self) -> bool:
        self._reach()
        return self.is_ours

    def release(self) -> None:
        self.released += 1
        self._reach()

    def _reach(self) -> None:
        if self.is_down:
            raise StoreUnavailableError("lease", "told so")


class Life:
    """What a replica did."""

    def __init__(self, lease: ToldLease) -> None:
        self.leading, self.standing = asyncio.Event(), asyncio.Event()
        self.stopped = asyncio.Event()
        self.told = ""
        self.down = asyncio.Event()
        self.replica = Replica(lease, lead=self._lead, stand_by=self._stand_by, tell=self._tell)
        self.failure: Exception | None = None

    async def _lead(self) -> None:
        self.leading.set()
        try:
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
        finally:
            self.stopped.set()

    async def _stand_by(self) -> None:
        self.standing.set()

    def _tell(self, reason: str) -> None:
        self.told = reason
        if reason:
            self.down.set()


@asynccontextmanager
async def living(lease: ToldLease) -> AsyncIterator[Life]:
    life = Life(lease)
    running = asyncio.ensure_future(life.replica.run())
    async with asyncio.timeout(DEADLINE_S):
        yield life
    running.cancel()
    await asyncio.wait([running])


async def test_a_replica_leads_when_it_has_the_lease_and_releases_it_when_it_is_stopped() -> None:
    lease = ToldLease()
    async with living(lease) as life:
        await life.leading.wait()
        assert lease.released == 0

    assert life.stopped.is_set()
    assert lease.released == 1
    assert not life.standing.is_set()


async def test_a_replica_stands_by_until_the_lease_is_free() -> None:
    lease = ToldLease()
    lease.is_free = False
    async with living(lease) as life:
        await life.standing.wait()
        assert not life.leading.is_set()
        lease.is_free = True
        await life.leading.wait()


async def test_whoever_lost_the_lease_stops_and_stands_by() -> None:
    lease = ToldLease()
    async with living(lease) as life:
        await life.leading.wait()
        lease.is_free = lease.is_ours = False
        await life.stopped.wait()
        await life.standing.wait()


async def test_a_lease_that_cannot_be_renewed_for_as_long_as_it_lives_ends_the_work() -> None:
    lease = ToldLease()
    async with living(lease) as life:
        await life.leading.wait()
        lease.is_down = True
        await life.stopped.wait()
        life.leading.clear()
        lease.is_down = False
        await life.leading.wait()


async def test_a_store_that_is_down_at_the_beginning_is_waited_for() -> None:
    lease = ToldLease()
    async with living(lease) as life:
        life.failure = StoreUnavailableError("index", "told so")
        await life.stopped.wait()
        life.failure = None
        life.leading.clear()
        await life.leading.wait()


async def test_whether_the_store_can_be_used_is_told_while_nobody_leads_here() -> None:
    lease = ToldLease()
    lease.is_down = True
    async with living(lease) as life:
        await life.down.wait()
        assert life.told == "told so"
        lease.is_down = False
        await life.leading.wait()
        assert life.told == ""

        lease.is_down = True
        await life.stopped.wait()
        assert life.told == "told so", "before the lease is given back"


async def test_work_that_finds_the_lease_lost_is_begun_again_when_it_can_be_had() -> None:
    lease = ToldLease()
    async with living(lease) as life:
        lost = LeaseLostError("index", "told so")
        life.failure = ExceptionGroup("streams", [ExceptionGroup("applier", [lost])])
        await life.stopped.wait()
        life.failure = None
        life.leading.clear()
        await life.leading.wait()
        assert lease.released >= 1


async def test_what_else_ends_the_work_ends_the_replica() -> None:
    life = Life(ToldLease())
    life.failure = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        await life.replica.run()
