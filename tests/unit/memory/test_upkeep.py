"""What is done for the archives in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from archive_samples import a_turn, keep
from shepherd_memory.archive.fake import FakeArchive, FakeArchives
from shepherd_memory.clocks import Clocks
from shepherd_memory.errors import ModelUnavailableError, StoreUnavailableError
from shepherd_memory.keeping import DAY_NS, Keeping
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.retrieval.dense import Matrix
from shepherd_memory.upkeep import MAX_RECALLS, Recalls, Upkeep
from shepherd_memory.writer import WriterThread

NOW = 100 * DAY_NS
ALL = Keeping()


class OneEmbedder:
    """Gives every text the same vector; is down as often as it is told."""

    name, dimensions, weight = "one", 1, 1.0

    def __init__(self, *, down: int = 0) -> None:
        self.down = down
        self.batches: list[int] = []

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        if self.down:
            self.down -= 1
            raise ModelUnavailableError(self.name, "told so")
        self.batches.append(len(texts))
        return np.ones((len(texts), 1), np.float32)


class EitherArchives(FakeArchives):
    """Now these archives, now those."""

    def __init__(self) -> None:
        super().__init__()
        self.now = FakeArchives()

    def of(self, tenant: str) -> FakeArchive:
        return self.now.of(tenant)

    def tenants(self) -> list[str]:
        return self.now.tenants()


class World:
    def __init__(self, writer: WriterThread) -> None:
        self.archives = FakeArchives()
        self.metrics, self.bell, self.recalls = Metrics(), Bell(), Recalls()
        self.writer = writer
        self.pauses: list[float] = []

    def upkeep(self, embedder: OneEmbedder | None = None, keeping: Keeping = ALL) -> Upkeep:
        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        return Upkeep(
            archives=self.archives,
            writer=self.writer,
            bell=self.bell,
            metrics=self.metrics,
            clocks=Clocks(unix_ns=lambda: NOW),
            recalls=self.recalls,
            embedder=embedder,
            keeping=keeping,
            sleep=pause,
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with WriterThread() as writer:
        yield World(writer)


async def test_every_archived_turn_of_every_tenant_gets_its_vector_once(world: World) -> None:
    for tenant in ("t", "u"):
        turns = [a_turn(n, tenant=tenant) for n in range(1, 41)]
        keep(world.archives, *turns, tenant=tenant, archived=True)
    embedder = OneEmbedder()
    upkeep = world.upkeep(embedder)

    await upkeep.round()
    await upkeep.round()

    assert embedder.batches == [32, 8, 32, 8]
    assert [world.archives.of(tenant).stats().vectors for tenant in "tu"] == [40, 40]
    assert world.count("shepherd_memory_turns_embedded_total") == 80


async def test_a_model_that_is_down_is_asked_again_after_growing_pauses(world: World) -> None:
    keep(world.archives, a_turn(1), archived=True)
    running = asyncio.create_task(world.upkeep(OneEmbedder(down=8)).run())
    try:
        async with asyncio.timeout(20):
            while not world.archives.of("t").stats().vectors:  # noqa: ASYNC110 - the model is in a thread
                await asyncio.sleep(0.001)
    finally:
        running.cancel()

    assert world.pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert world.count("shepherd_memory_model_failures_total", model="embedder") == 8


async def test_one_tenants_failure_holds_up_no_other(world: World) -> None:
    for tenant in ("t", "u"):
        keep(world.archives, a_turn(1, tenant=tenant), tenant=tenant, archived=True)

    with pytest.raises(ModelUnavailableError, match="told so"):
        await world.upkeep(OneEmbedder(down=1)).round()

    assert [world.archives.of(tenant).stats().vectors for tenant in "tu"] == [0, 1]


async def test_recalls_that_found_no_room_are_counted(world: World) -> None:
    world.recalls.note("t", map(str, range(MAX_RECALLS + 5)), 1)

    await world.upkeep().round()

    assert world.count("shepherd_memory_recalls_dropped_total") == 5


class DownArchives(FakeArchives):
    """Out of reach."""

    def of(self, tenant: str) -> FakeArchive:
        raise StoreUnavailableError("store", "told so")


async def test_recalls_that_could_not_be_written_are_kept_for_the_next_round(
    world: World,
) -> None:
    world.archives = DownArchives()
    world.recalls.note("t", ["a", "b"], 1)
    with pytest.raises(StoreUnavailableError):
        await world.upkeep().round()
    world.recalls.note("t", ["b"], 2)

    assert world.recalls.taken() == {"t": {"a": 1, "b": 2}}


async def test_new_turns_are_embedded_as_soon_as_the_bell_rings(world: World) -> None:
    running = asyncio.create_task(world.upkeep(OneEmbedder()).run())
    try:
        async with asyncio.timeout(20):
            await asyncio.sleep(0.01)
            keep(world.archives, a_turn(1), archived=True)
            while not world.archives.of("t").stats().vectors:
                world.bell.ring()
                await asyncio.sleep(0.001)
    finally:
        running.cancel()


async def test_quotas_are_kept_and_what_was_recalled_stays_longer(world: World) -> None:
    old, used = a_turn(1, "old"), a_turn(2, "used")
    keep(world.archives, old, used, archived=True)
    with world.archives.of("t").writing() as writer:
        writer.insert(a_turn(3, "new"))
        writer.archive(a_turn(3, "new").archive_id, NOW - DAY_NS)
    world.recalls.note("t", [used.archive_id], NOW - DAY_NS)

    await world.upkeep(keeping=Keeping(max_days=30)).round()

    kept = world.archives.of("t").turns("s", after=0, limit=9)
    assert [turn.question for turn in kept] == ["used", "new"]
    assert world.count("shepherd_memory_turns_pruned_total") == 1
    assert len(world.recalls) == 0


async def test_nothing_is_pruned_unless_it_is_asked_for(world: World) -> None:
    keep(world.archives, a_turn(1), archived=True)

    await world.upkeep().round()

    assert world.archives.of("t").stats().archived_turns == 1
    assert Keeping().quota(NOW) is None


def test_recalls_are_bounded_and_what_found_no_room_is_counted() -> None:
    recalls = Recalls()

    recalls.note("t", map(str, range(MAX_RECALLS + 5)), 1)
    recalls.note("t", ["0"], 2)

    assert (len(recalls), recalls.dropped) == (MAX_RECALLS, 5)
    assert recalls.taken()["t"]["0"] == 2
    assert len(recalls) == 0


async def test_who_begins_again_looks_at_every_document_again(world: World) -> None:
    """A store that lacks what it had gives the numbers of its documents to others."""
    ahead, lagging = FakeArchives(), FakeArchives()
    keep(ahead, *(a_turn(n) for n in range(1, 4)), archived=True)
    keep(lagging, a_turn(9), archived=True)
    world.archives = either = EitherArchives()
    upkeep = world.upkeep(OneEmbedder())

    for archives, vectors in ((ahead, 3), (lagging, 1)):
        either.now = archives
        running = asyncio.create_task(upkeep.run())
        async with asyncio.timeout(20):
            while archives.of("t").stats().vectors < vectors:  # noqa: ASYNC110 - the model is in a thread
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        assert archives.of("t").stats().vectors == vectors
