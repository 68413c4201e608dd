"""The side that wants records: the best way that both sides have, then the next one.

Knows which ways there are and in what order to try them; how records travel is
the business of `tcp.py`, `shm.py` and `nixl.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from shepherd_worker.engine.embedded.transfer.errors import FAULTS, TransferError
from shepherd_worker.engine.embedded.transfer.frames import Request
from shepherd_worker.engine.embedded.transfer.staging import Staging
from shepherd_worker.engine.protocol import Ticket

log = logging.getLogger(__name__)


class Transport(Protocol):
    """One way to fetch records."""

    @property
    def name(self) -> str:
        """Scheme of the addresses that it understands."""
        ...

    def reaches(self, address: str) -> bool:
        """Whether it is worth a try; cheap."""
        ...

    async def fetch(
        self, address: str, fingerprint: bytes, request: Request, into: memoryview
    ) -> None:
        """Fill `into` with the requested records; the lease ends thereby.

        Raises:
            TransferError, OSError, EOFError, TimeoutError: what is in `into` is worthless.
        """
        ...

    async def close(self) -> None:
        """Let go of what is kept between transfers."""
        ...


class TransferClient:
    """See the module's docstring; belongs to one event loop, its counters to everyone."""

    def __init__(self, staging: Staging) -> None:
        self.fetched_total: Counter[str] = Counter()
        """Transfers that came through, by transport."""
        self.faults_total: Counter[str] = Counter()
        """Attempts that did not, by transport."""
        self.failures_total = 0
        """Tickets whose records could not be had in any way, though some were wanted."""
        self.bytes_received_total = 0
        self._transports: tuple[Transport, ...] = ()
        self._staging = staging

    def use(self, transports: Sequence[Transport]) -> None:
        """The ways that this side has, the fastest first."""
        self._transports = tuple(transports)
        for transport in transports:
            self.fetched_total[transport.name] += 0
            self.faults_total[transport.name] += 0

    async def fetch(self, ticket: Ticket, first: int, count: int) -> memoryview | None:
        """Records [first, first + count) of a ticket, whose lease ends thereby; None if it fails.

        The caller has checked that it can use `count * ticket.record_bytes` bytes of
        this fingerprint.
        """
        try:
            request = Request(bytes.fromhex(ticket.transfer_id), first, count)
            fingerprint = bytes.fromhex(ticket.fingerprint)
            if len(request.transfer_id) != 16 or len(fingerprint) != 32:
                raise TransferError("a transfer id has 16 bytes and a fingerprint 32")
            target = await self._staging.take(count * ticket.record_bytes)
            await self._fetch(ticket, fingerprint, request, target)
        except (*FAULTS, ValueError) as error:
            self.give_up(count, repr(error))
            return None
        self.bytes_received_total += len(target)
        return target

    def give_up(self, count: int, reason: str) -> None:
        """Count `count` records that must be computed here."""
        log.warning("records cannot be fetched and must be computed here: %s", reason)
        self.failures_total += count > 0

    async def close(self) -> None:
        """Let go of what transports keep."""
        for transport in self._transports:
            await transport.close()

    async def _fetch(
        self, ticket: Ticket, fingerprint: bytes, request: Request, target: memoryview
    ) -> None:
        ways = [(t, a) for t in self._transports for a in ticket.addresses if t.reaches(a)]
        if not ways:
            raise TransferError(f"no way leads to {', '.join(ticket.addresses) or 'no address'}")
        for transport, address in ways:
            try:
                await transport.fetch(address, fingerprint, request, target)
            except FAULTS as error:
                self.faults_total[transport.name] += 1
                if (transport, address) == ways[-1]:
                    raise
                log.warning("%s failed, trying another way: %r", transport.name, error)
            else:
                self.fetched_total[transport.name] += 1
                return
