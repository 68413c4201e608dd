"""What is done for the archives in the background: vectors, quotas, what was of use.

    rung by new archived turns, and every interval:
        write down which turns were recalled
        for each tenant: prune to its quota, embed what has no vector yet

One batch of one tenant is in memory at a time.  A model that is down is asked
again after a pause that grows to a minute; meanwhile turns are found by their
words.  Reads and models run in threads, writes take their turn in the writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from shepherd_memory.archive.protocol import Archives
from shepherd_memory.archive.records import StoredVectors
from shepherd_memory.clocks import Clocks
from shepherd_memory.embedding.backfill import BATCH, missing_vectors
from shepherd_memory.embedding.protocol import Embedder
from shepherd_memory.errors import ModelUnavailableError, StoreUnavailableError
from shepherd_memory.keeping import Keeping
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell, rung_within
from shepherd_memory.writer import WriterThread

log = logging.getLogger(__name__)

MAX_RECALLS = 10_000
"""Recalled turns that are remembered until the next round; later ones are counted and let go."""
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 60.0


@dataclass(slots=True)
class Recalls:
    """Turns that were of use since the last round; event loop only."""

    by_tenant: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """When each archive id was recalled last."""
    dropped: int = 0
    """How many found no room since the last round."""

    def note(self, tenant: str, archive_ids: Iterable[str], now_unix_ns: int) -> None:
        """Remember that turns were recalled."""
        of_tenant = self.by_tenant[tenant]
        for archive_id in archive_ids:
            if archive_id in of_tenant or len(self) < MAX_RECALLS:
                of_tenant[archive_id] = now_unix_ns
            else:
                self.dropped += 1

    def note_again(self, tenant: str, recalled: dict[str, int]) -> None:
        """Take back what could not be written; what was noted since is later."""
        for archive_id, when in recalled.items():
            if archive_id not in self.by_tenant[tenant]:
                self.note(tenant, [archive_id], when)

    def taken(self) -> dict[str, dict[str, int]]:
        """All of them, which are forgotten here."""
        noted, self.by_tenant = dict(self.by_tenant), defaultdict(dict)
        return noted

    def __len__(self) -> int:
        return sum(map(len, self.by_tenant.values()))


class Upkeep:
    """The background rounds of all tenants; `run` is one task."""

    def __init__(
        self,
        *,
        archives: Archives,
        writer: WriterThread,
        bell: Bell,
        metrics: Metrics,
        clocks: Clocks,
        recalls: Recalls,
        embedder: Embedder | None = None,
        keeping: Keeping = Keeping(),  # noqa: B008  frozen
        interval_s: float = 60.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._archives = archives
        self._writer = writer
        self._bell = bell
        self._metrics = metrics
        self._clocks = clocks
        self._recalls = recalls
        self._embedder = embedder
        self._keeping = keeping
        self._interval_s = interval_s
        self._sleep = sleep
        self._embedded: dict[str, int] = {}
        """By tenant, the document up to which all have vectors."""

    async def run(self) -> None:
        """Round after round until cancelled; the store or the model may be down for a while."""
        self._embedded.clear()  # a store that lacks documents gives their numbers to others
        pause_s = 0.0
        while True:
            ticket = self._bell.ticket()
            try:
                await self.round()
                pause_s = 0.0
            except (ModelUnavailableError, StoreUnavailableError) as error:
                pause_s = min(LAST_PAUSE_S, 2 * pause_s or FIRST_PAUSE_S)
                log.warning("upkeep goes on in %g s: %s", pause_s, error)
                await self._sleep(pause_s)
                continue
            await rung_within(ticket, self._interval_s)

    async def round(self) -> None:
        """Everything that is to be done now.

        Raises:
            ModelUnavailableError: the embedder is down; everything else was done.
            StoreUnavailableError: a store is.
        """
        await self.write_recalled()
        tenants = await asyncio.to_thread(self._archives.tenants)
        await self._prune(tenants)
        if self._embedder is not None:
            await self._embed_all(tenants, self._embedder)

    async def write_recalled(self) -> None:
        """Write down which turns were of use since the last time.

        Raises:
            StoreUnavailableError: a store is down.
        """
        self._metrics.recalls_dropped.inc(self._recalls.dropped)
        self._recalls.dropped = 0
        waiting = self._recalls.taken()
        try:
            for tenant in list(waiting):
                await self._writer.run(lambda: self._write_recalled(tenant, waiting[tenant]))  # noqa: B023  awaited at once
                del waiting[tenant]
        finally:
            for tenant, recalled in waiting.items():
                self._recalls.note_again(tenant, recalled)

    async def _prune(self, tenants: Sequence[str]) -> None:
        now = self._clocks.unix_ns()
        quota = self._keeping.quota(now)
        if quota is None:
            return
        for tenant in tenants:
            erased = await self._writer.run(lambda: self._archives.of(tenant).prune(quota, now))  # noqa: B023  awaited at once
            self._metrics.turns_pruned.inc(erased.turns)

    async def _embed_all(self, tenants: Sequence[str], embedder: Embedder) -> None:
        """One tenant's failure, which may be a text that is refused, holds up no other."""
        failure: ModelUnavailableError | None = None
        for tenant in tenants:
            try:
                await self._embed(tenant, embedder)
            except ModelUnavailableError as error:
                self._metrics.model_failures.labels("embedder").inc()
                failure = error
        if failure is not None:
            raise failure

    async def _embed(self, tenant: str, embedder: Embedder) -> None:
        while True:
            after = self._embedded.get(tenant, 0)
            vectors = await asyncio.to_thread(self._missing, tenant, embedder, after)
            if not vectors:
                return
            await self._writer.run(lambda: self._write_vectors(tenant, embedder.name, vectors))  # noqa: B023  awaited at once
            self._embedded[tenant] = vectors[-1].doc
            self._metrics.turns_embedded.inc(len(vectors))

    def _missing(self, tenant: str, embedder: Embedder, after: int) -> list[StoredVectors]:
        return missing_vectors(self._archives.of(tenant), embedder, after=after, limit=BATCH)

    def _write_recalled(self, tenant: str, recalled: dict[str, int]) -> None:
        with self._archives.of(tenant).writing() as writer:
            for archive_id, when in recalled.items():
                writer.recalled([archive_id], when)

    def _write_vectors(self, tenant: str, model: str, vectors: Sequence[StoredVectors]) -> None:
        with self._archives.of(tenant).writing() as writer:
            writer.put_vectors(model, vectors)
