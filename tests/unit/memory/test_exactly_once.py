"""A crash at any step loses nothing and repeats nothing; neither does a replay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shepherd_events.events import Frame, StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.protocol import ArchiveWriter
from shepherd_memory.archive.sqlite import SqliteArchive
from shepherd_memory.arrivals import StreamEnded
from shepherd_memory.block_index import BlockIndex
from shepherd_memory.eviction import TurnKey
from shepherd_memory.fake import FakeWorker
from shepherd_memory.index_store import IndexStore

if TYPE_CHECKING:
    from conftest import World

STEPS = ("first tenant", "second tenant", "before the index", "after the index")


class PowerFailure(BaseException):
    """Nothing in the program may catch it."""


class DyingArchive(SqliteArchive):
    """Loses power instead of committing, if told so."""

    power_fails = False

    @contextmanager
    def writing(self) -> Iterator[ArchiveWriter]:
        with super().writing() as writer:
            yield writer
            if self.power_fails:
                raise PowerFailure


class DyingArchives(SqliteArchives):
    def __init__(self, directory: Path, dies_in: str) -> None:
        super().__init__(directory)
        self._dies_in = dies_in
        self._dying: dict[str, DyingArchive] = {}
        self._directory = directory

    def of(self, tenant: str) -> SqliteArchive:
        kept = super().of(tenant)
        if tenant != self._dies_in:
            return kept
        if tenant not in self._dying:
            self._dying[tenant] = DyingArchive(kept._file.path, tenant)
            self._dying[tenant].power_fails = True
        return self._dying[tenant]

    def close(self) -> None:
        super().close()
        for archive in self._dying.values():
            archive.close()


class DyingStore(IndexStore):
    """Loses power before or after it has committed."""

    def __init__(self, path: Path, step: str) -> None:
        super().__init__(path)
        self._step = step

    def save(
        self, index: BlockIndex, positions: Mapping[StreamId, Position], ended: set[TurnKey]
    ) -> None:
        if self._step == "before the index":
            raise PowerFailure
        super().save(index, positions, ended)
        if self._step == "after the index":
            raise PowerFailure


def crash(world: World, step: str, batch: Sequence[Frame]) -> None:
    """Apply a batch up to a step, and start again with what reached the disk."""
    # Tenants commit in the reverse order of their first event in the batch.
    dies_in = {"first tenant": "acme", "second tenant": "local"}.get(step, "")
    world.stop()
    world.start(lambda path: DyingArchives(path, dies_in), lambda path: DyingStore(path, step))
    with pytest.raises(PowerFailure):
        world.consumer.apply(batch)
    world.restart()


def resume(world: World, *workers: FakeWorker) -> list[Frame]:
    """What the streams replay to a reader that goes on where it stood."""
    positions = world.consumer.positions
    return [
        frame
        for worker in workers
        for frame in worker.frames
        if worker.stream not in positions
        or Position(frame.epoch, frame.seq) > positions[worker.stream]
    ]


def state(world: World) -> object:
    """All that a tenant can see."""
    return [
        (
            world.live(session, tenant),
            world.archived(session, tenant),
            sorted(turn for notice in world.outbox(tenant) for turn in notice.archive_ids),
        )
        for tenant in ("local", "acme")
        for session in ("s", "o")
    ]


def conversation(worker: FakeWorker) -> list[Frame]:
    """Two tenants talk for three turns each and lose their first two."""
    said: dict[str, list[tuple[str, str]]] = {"": [], "acme": []}
    for turn in ("one or uno", "two or due", "three or tre"):
        for tenant, messages in said.items():
            messages += [("user", f"{turn}?"), ("assistant", f"{turn}!")]
            worker.complete(messages, tenant=tenant)
    for tenant, messages in said.items():
        worker.evict(worker.blocks_of(messages, salt=tenant)[:7])
    return worker.frames


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_crash_at_any_step_of_any_batch_changes_nothing(
    world: World, tmp_path: Path, step: str, size: int
) -> None:
    worker = FakeWorker()
    frames = conversation(worker)
    calm = type(world)(tmp_path / "calm")
    calm.apply(*frames)
    expected = state(calm)
    calm.stop()

    for start in range(0, len(frames), size):
        batch = frames[start : start + size]
        if step not in {"first tenant", "second tenant"} or touches(step, batch):
            crash(world, step, batch)
        world.apply(*[f for f in resume(world, worker) if f.seq <= start + size])

    assert state(world) == expected
    assert world.archived(tenant="acme") == [
        (1, "one or uno? one or uno!"),
        (2, "two or due? two or due!"),
    ]
    assert len(world.outbox("acme")) == 1


def touches(step: str, batch: Sequence[Frame]) -> bool:
    """Whether the tenant that dies in this step has anything to commit."""
    tenant = "acme" if step == "first tenant" else ""
    origins = [getattr(frame.body, "origin", None) for frame in batch]
    return any(origin is not None and origin.tenant == tenant for origin in origins)


def test_after_a_crash_a_turn_is_not_judged_before_its_blocks_are_known(world: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2", model="other")
    said = [("user", "one or uno?"), ("assistant", "yes"), ("user", "two?"), ("assistant", "no")]
    world.apply(*first.complete(said[:2]))
    crash(world, "before the index", second.complete([*said], started_unix_ns=50))
    world.apply(*first.complete([("user", "another branch")], started_unix_ns=60))
    world.apply(first.evict(first.blocks_of(said[:2])))

    assert world.archived() == []

    world.apply(*resume(world, first, second))
    assert world.archived() == []
    world.apply(second.evict(second.blocks_of(said)[:1]))
    assert world.archived() == [(1, "one or uno? yes")]


def test_after_a_crash_a_stream_that_never_comes_back_archives_its_turns(world: World) -> None:
    worker = FakeWorker()
    said = [("user", "one or uno?"), ("assistant", "yes"), ("user", "two?"), ("assistant", "no")]
    crash(world, "before the index", worker.complete(said))
    assert world.consumer.positions == {}
    assert world.consumer.known_streams == {worker.stream}

    world.apply(StreamEnded(worker.stream))

    assert world.archived() == [(1, "one or uno? yes")]
    assert world.live() == [(2, "two? no")]


def test_the_index_comes_back_as_it_was(world: World) -> None:
    worker = FakeWorker()
    frames = conversation(worker)
    world.apply(*frames)
    before, positions = world.consumer._index, world.consumer.positions

    world.restart()

    after = world.consumer._index
    hashes = set(before._blocks) | set(after._blocks)
    assert len(hashes) > 10
    assert [after.record(each) for each in hashes] == [before.record(each) for each in hashes]
    assert world.consumer.positions == positions == {worker.stream: Position(1, len(frames))}


WORDS = st.sampled_from(["cat", "dog", "yes", "a longer sentence"])


ACTIONS = ("talk", "talk", "talk", "cut", "evict", "branch")


@st.composite
def stories(draw: st.DrawFn, actions: Sequence[str] = ACTIONS) -> list[FakeWorker]:
    """Two workers serve two sessions, with repeated words, branches, cuts and evictions."""
    workers = [FakeWorker("w1"), FakeWorker("w2")]
    said: dict[str, list[tuple[str, str]]] = {"s": [], "o": []}
    clock = 0
    for _ in range(draw(st.integers(1, 8))):
        worker, session = draw(st.sampled_from(workers)), draw(st.sampled_from(["s", "o"]))
        action = draw(st.sampled_from(actions))
        if action == "evict":
            worker.evict(worker.blocks_of(said[session])[draw(st.integers(0, 6)) :][:2])
            continue
        clock += 1
        if action == "branch":
            said[session] = said[session][: draw(st.integers(0, 2)) * 2]
        question = ("user", draw(WORDS))
        answer = draw(WORDS)
        if action == "cut":
            cut = [*said[session], question, ("assistant", answer[:2])]
            worker.complete(cut, session=session, request=f"r{clock}", started_unix_ns=clock)
        said[session] = [*said[session], question, ("assistant", answer)]
        worker.complete(said[session], session=session, request=f"r{clock}", started_unix_ns=clock)
    return workers


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stories(), st.data())
def test_batches_crashes_and_replays_never_change_the_outcome(
    world: World, workers: list[FakeWorker], data: st.DataObject
) -> None:
    frames = interleaved(workers, data)
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        calm, rough = type(world)(Path(one)), type(world)(Path(other))
        try:
            calm.apply(*frames)
            at = 0
            while at < len(frames):
                size = data.draw(st.integers(1, 5), "batch")
                batch = frames[at : at + size]
                if data.draw(st.booleans(), "crash"):
                    step = data.draw(st.sampled_from(STEPS[2:]), "step")
                    crash(rough, step, batch)
                # What was committed comes again as well: the consumer must drop it.
                rough.apply(*frames[: at + size])
                at += size
            assert state(rough) == state(calm)
        finally:
            calm.stop()
            rough.stop()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stories(("talk", "cut")), st.data())
def test_the_order_in_which_streams_are_heard_does_not_matter_to_a_growing_conversation(
    world: World, workers: list[FakeWorker], data: st.DataObject
) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        worlds = type(world)(Path(one)), type(world)(Path(other))
        try:
            outcomes = []
            for each in worlds:
                each.apply(*interleaved(workers, data))
                outcomes.append([each.live(session) for session in ("s", "o")])
            assert outcomes[0] == outcomes[1]
        finally:
            for each in worlds:
                each.stop()


def interleaved(workers: Sequence[FakeWorker], data: st.DataObject) -> list[Frame]:
    """Some order that keeps each stream's own."""
    queues = [list(worker.frames) for worker in workers]
    frames = []
    while any(queues):
        queue = data.draw(st.sampled_from([queue for queue in queues if queue]), "next")
        frames.append(queue.pop(0))
    return frames
