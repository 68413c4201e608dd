"""Several services on one archive: one follows the streams, all answer.

    standing by ──lease free──► leading ──lease lost, or its work failed──► standing by
         ▲                         │ cancelled: the lease is released
         └───────── start          ▼

While it does not lead, it tells whether the store can be used: that is asked
three times in a lease's life, and while it leads, whoever writes there knows.

Knows neither database nor streams: a `Lease` and two kinds of work.  The lease
is renewed three times in its life; when it cannot be renewed for as long as it
lives, the work ends, since another may have begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from shepherd_memory.errors import LeaseLostError, StoreUnavailableError

log = logging.getLogger(__name__)

AGAIN_S = 0.1
"""From the loss of a lease until it is asked for again: the server may only have been started anew."""


class Lease(Protocol):
    """Says which replica leads; its methods block, and raise StoreUnavailableError."""

    ttl_s: float
    """Seconds after which another may take what was not renewed."""

    def acquire(self) -> bool:
        """Take it if nobody holds it; says whether it is ours."""
        ...

    def renew(self) -> bool:
        """Keep it; False where it is another's by now."""
        ...

    def release(self) -> None:
        """Let another take it at once."""
        ...


class Replica:
    """One service among several; event loop only."""

    def __init__(
        self,
        lease: Lease,
        *,
        lead: Callable[[], Awaitable[None]],
        stand_by: Callable[[], Awaitable[None]],
        tell: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`lead` works until cancelled; `stand_by` is called now and then while another leads.

        `tell` is told why the store cannot be used; an empty string when it can.
        """
        self._lease = lease
        self._lead = lead
        self._stand_by = stand_by
        self._told = ""
        self._tell = tell
        self._sleep = sleep

    async def run(self) -> None:
        """Lead whenever the lease can be had, until cancelled.

        Raises:
            Exception: what `lead` raises.
        """
        while True:
            pause_s = self._lease.ttl_s / 3
            try:
                if await asyncio.to_thread(self._lease.acquire):
                    self._store_is("")
                    await self._lead_while_ours()
                    pause_s = min(pause_s, AGAIN_S)
                else:
                    await self._stand_by()
                    self._store_is("")
            except StoreUnavailableError as error:
                self._store_is(error.reason)
            await self._sleep(pause_s)

    def _store_is(self, reason: str) -> None:
        if reason != self._told:
            log.warning("this replica %s", f"waits: {reason}" if reason else "goes on")
        self._told = reason
        self._tell(reason)

    async def _lead_while_ours(self) -> None:
        """Until the lease is lost."""
        log.info("this replica follows the streams now")
        working = asyncio.ensure_future(self._lead())
        keeping = asyncio.ensure_future(self._kept())
        try:
            done, _ = await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            log.warning("this replica no longer follows the streams: the lease is not its own")
        except* LeaseLostError as lost:
            log.warning("this replica no longer follows the streams: %s", _first_of(lost))
        finally:
            working.cancel()
            keeping.cancel()
            await asyncio.wait({working, keeping})
            with suppress(StoreUnavailableError):
                await asyncio.to_thread(self._lease.release)

    async def _kept(self) -> None:
        """Renew until it is another's.

        Raises:
            StoreUnavailableError: it could not be renewed for as long as it lives.
        """
        clock = asyncio.get_running_loop().time
        valid_until = clock() + self._lease.ttl_s
        while True:
            await self._sleep(self._lease.ttl_s / 3)
            began = clock()
            try:
                if not await asyncio.to_thread(self._lease.renew):
                    return
                valid_until = began + self._lease.ttl_s
            except StoreUnavailableError as error:
                log.warning("lease not renewed: %s", error)
                if clock() >= valid_until:
                    self._store_is(error.reason)
                    raise


def _first_of(error: BaseException) -> BaseException:
    """What stands innermost in groups of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
