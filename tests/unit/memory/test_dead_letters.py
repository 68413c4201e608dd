"""What cannot be applied holds nothing up, is kept whole, and can be applied later."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from memory_doors import house
from shepherd_memory.applier import Applier
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.protocol import ArchiveWriter
from shepherd_memory.archive.records import DeadLetter
from shepherd_memory.archive.sqlite import SqliteArchive
from shepherd_memory.clocks import Clocks
from shepherd_memory.errors import UnknownItemError
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.notifier import Bell
from shepherd_memory.writer import WriterThread

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import World
    from shepherd_events.transcript import Message

T1 = [("user", "Where do cats sleep?"), ("assistant", "Everywhere.")]
T2 = [("user", "And dogs?"), ("assistant", "On the cat.")]
TEXT1, TEXT2 = (1, "Where do cats sleep? Everywhere."), (2, "And dogs? On the cat.")


class PickyTranscript(SpelledTranscript):
    """Fails on dogs, until it has been repaired."""

    def __init__(self) -> None:
        self.is_broken = True

    def read(self, token_ids: array[int]) -> tuple[Message, ...]:
        messages = super().read(token_ids)
        if self.is_broken and any("dogs" in message.text for message in messages):
            raise RuntimeError("a bug in reading")
        return messages


class CursedSessions(SqliteArchives):
    """Cannot be asked for one session; what is said of it breaks a whole batch."""

    def of(self, tenant: str) -> SqliteArchive:
        archive = super().of(tenant)
        return CursedArchive(archive) if self.is_broken else archive  # type: ignore[return-value]

    is_broken = True


class CursedArchive:
    """Passes everything on, but for the writer's `session_turns`."""

    def __init__(self, archive: SqliteArchive) -> None:
        self._archive = archive

    def __getattr__(self, name: str) -> object:
        return getattr(self._archive, name)

    @contextmanager
    def writing(self) -> Iterator[ArchiveWriter]:
        with self._archive.writing() as writer:
            yield CursedWriter(writer)  # type: ignore[misc]


class CursedWriter:
    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> object:
        return getattr(self._writer, name)

    def session_turns(self, session: str) -> object:
        if session == "cursed":
            raise RuntimeError("a bug in writing")
        return self._writer.session_turns(session)


def letters(world: World, tenant: str = "local") -> list[DeadLetter]:
    return world.archives.of(tenant).dead_letters(after="", limit=100)


def test_a_request_that_cannot_be_read_becomes_a_letter_of_its_tenant(world: World) -> None:
    picky, worker = PickyTranscript(), FakeWorker()
    world.stop()
    world.start(transcript=picky)

    world.apply(*worker.complete([*T1, *T2], tenant="acme"), *worker.complete(T1, session="o"))

    assert world.live("o") == [TEXT1]
    (letter,) = letters(world, "acme")
    assert letter.name == "w1/0 1:2"
    assert (letter.session, letter.reason) == ("s", "RuntimeError: a bug in reading")
    assert letters(world) == []
    assert world.count("shepherd_memory_dead_letters_total") == 1
    assert world.count("shepherd_memory_poison_frames_total") == 1


def test_a_letter_is_applied_when_its_cause_is_gone(world: World) -> None:
    picky, worker = PickyTranscript(), FakeWorker()
    world.stop()
    world.start(transcript=picky)
    world.apply(*worker.complete([*T1, *T2]))

    assert world.consumer.replay_dead_letter("local", "w1/0 1:2") is False
    assert [letter.attempts for letter in letters(world)] == [2]

    picky.is_broken = False
    assert world.consumer.replay_dead_letter("local", "w1/0 1:2") is True
    world.consumer.check()
    assert world.live() == [TEXT1, TEXT2]
    assert letters(world) == []

    world.apply(worker.evict(worker.blocks_of([*T1, *T2])[1:2]))
    assert world.archived() == [TEXT1]


def test_a_letter_whose_blocks_are_long_gone_is_still_whole(world: World) -> None:
    picky, worker = PickyTranscript(), FakeWorker()
    world.stop()
    world.start(transcript=picky)
    said = [*T1, *T2]
    world.apply(*worker.complete(said))
    world.apply(worker.evict(worker.blocks_of(said)))
    picky.is_broken = False

    assert world.consumer.replay_dead_letter("local", "w1/0 1:2") is True

    assert world.archived() == [TEXT1]
    assert world.live() == [TEXT2]
    assert [notice.turns for notice in world.outbox()] == [(1,)]


def test_a_letter_that_nobody_has_is_said_to_be_unknown(world: World) -> None:
    with pytest.raises(UnknownItemError, match="dead letter 'w9/0 1:1'"):
        world.consumer.replay_dead_letter("local", "w9/0 1:1")


def test_an_anonymous_request_leaves_no_letter(world: World) -> None:
    stranger = FakeWorker("nobody reads me")
    world.apply(*stranger.complete(T1, session=""))

    assert list(world.archives.tenants()) == []


async def test_a_frame_that_breaks_its_batch_is_buried_and_the_others_are_applied(
    tmp_path: Path, world: World
) -> None:
    worker = FakeWorker()
    worker.complete(T1, session="a")
    worker.complete([("user", "curse"), ("assistant", "ok")], session="cursed")
    worker.complete(T1, session="b")
    worker.evict(worker.blocks_of(T1)[:1])
    world.stop()
    world.start(CursedSessions)
    cursed = world.archives
    assert isinstance(cursed, CursedSessions)
    async with WriterThread() as writer, asyncio.TaskGroup() as tasks:
        applier = Applier(
            consumer=world.consumer,
            writer=writer,
            bell=Bell(),
            metrics=world.metrics,
            clocks=Clocks(),
        )
        for frame in worker.frames:
            await applier.put(frame)
        running = tasks.create_task(applier.run())
        async with asyncio.timeout(10):
            while world.count("shepherd_memory_commit_duration_seconds_count") < 1:  # noqa: ASYNC110  a counter rings no bell; the deadline is above
                await asyncio.sleep(0.005)
        running.cancel()

    assert world.live("a") == world.live("b") == [TEXT1]
    assert world.consumer.positions[worker.stream].seq == len(worker.frames)
    (letter,) = letters(world)
    assert (letter.session, letter.reason) == ("cursed", "RuntimeError: a bug in writing")

    cursed.is_broken = False
    assert world.consumer.replay_dead_letter("local", letter.name) is True
    assert world.live("cursed") == [(1, "curse ok")]


async def test_the_operator_replays_letters_by_name(tmp_path: Path) -> None:
    async with house(tmp_path) as doors:
        doors.talk()
        path = "/admin/v1/archives/local/dead-letters/replay?name="
        answers = [
            await doors.call("POST", path + "can%20be%20applied%20now", 204, admin=True),
            await doors.call("POST", path + "never", 409, admin=True),
            await doors.call("POST", path.replace("local", "nobody") + "x", 404, admin=True),
        ]

    assert "'never' still cannot be applied" in answers[1]["detail"]
