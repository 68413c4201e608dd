"""What a cache evicts and stores again at once stays what it was."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from shepherd_events.events import BlockBatch, BlocksStored
from shepherd_memory.fake import FakeWorker, spell

if TYPE_CHECKING:
    from conftest import World

Said = list[tuple[str, str]]

T1: Said = [("user", "Where do cats sleep?"), ("assistant", "Everywhere at all.")]
T2: Said = [("user", "And what do dogs eat?"), ("assistant", "Whatever is left.")]
T3: Said = [("user", "Who feeds the two?"), ("assistant", "You do.")]
TEXT1 = (1, "Where do cats sleep? Everywhere at all.")
TEXT2 = (2, "And what do dogs eat? Whatever is left.")
TEXT3 = (3, "Who feeds the two? You do.")
GRACE_NS = 1_000


def stored_again(worker: FakeWorker, said: Said, block: int) -> BlockBatch:
    hashes = worker.blocks_of(said)
    tokens = spell(said)[4 * block : 4 * block + 4]
    parent = hashes[block - 1] if block else None
    return BlockBatch((BlocksStored(hashes[block : block + 1], parent, tokens, block),))


def after(world: World, ns: int) -> list[tuple[int, ...]]:
    """The turns of the notices that come into being when time has passed."""
    world.now_ns += ns
    return [notice.turns for notice in world.apply()]


def test_a_block_that_is_stored_again_within_the_grace_archives_nothing(patient: World) -> None:
    worker, said = FakeWorker(), [*T1, *T2]
    patient.apply(*worker.complete(said))
    for _ in range(5):
        patient.apply(worker.evict(worker.blocks_of(said)[1:2]))
        assert after(patient, GRACE_NS - 1) == []
        patient.apply(worker.emit(stored_again(worker, said, 1)))

    assert after(patient, 10 * GRACE_NS) == []
    assert patient.archived() == []
    assert patient.consumer.next_due_ns is None

    patient.apply(worker.evict(worker.blocks_of(said)[1:2]))
    assert after(patient, GRACE_NS) == [(1,)]
    assert patient.archived() == [TEXT1]


def test_a_turn_of_which_only_some_blocks_come_back_is_archived(patient: World) -> None:
    worker, said = FakeWorker(), [*T1, *T2]
    patient.apply(*worker.complete(said))
    patient.apply(worker.evict(worker.blocks_of(said)[1:3]))
    patient.apply(worker.emit(stored_again(worker, said, 1)))

    assert after(patient, GRACE_NS) == [(1,)]


def test_evictions_of_one_burst_are_told_together(patient: World) -> None:
    worker, said = FakeWorker(), [*T1, *T2, *T3]
    patient.apply(*worker.complete(said))
    patient.apply(worker.evict(worker.blocks_of(said)[1:2]))
    assert after(patient, GRACE_NS // 2) == []
    patient.apply(worker.evict(worker.blocks_of(said)[12:13]))

    assert after(patient, GRACE_NS // 2) == []
    assert after(patient, GRACE_NS) == [(1, 2)]
    assert patient.archived() == [TEXT1, TEXT2]


def test_a_turn_that_is_computed_again_elsewhere_within_the_grace_stays(patient: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2")
    patient.apply(*first.complete([*T1, *T2]))
    patient.apply(first.evict(first.blocks_of([*T1, *T2])))
    patient.apply(*second.complete([*T1, *T2, *T3], started_unix_ns=99))

    assert after(patient, 10 * GRACE_NS) == []
    assert patient.live() == [TEXT1, TEXT2, TEXT3]


def test_a_snapshot_that_names_the_blocks_again_keeps_the_turn(patient: World) -> None:
    worker, said = FakeWorker(), [*T1, *T2]
    patient.apply(*worker.complete(said))
    patient.apply(worker.evict(worker.blocks_of(said)[1:2]))
    patient.apply(worker.emit(stored_again(worker, said, 1)))
    patient.restart()

    assert after(patient, 10 * GRACE_NS) == []
    assert patient.archived() == []


def test_a_crash_within_the_grace_only_begins_it_anew(patient: World) -> None:
    worker, said = FakeWorker(), [*T1, *T2]
    patient.apply(*worker.complete(said))
    patient.apply(worker.evict(worker.blocks_of(said)[1:2]))
    patient.now_ns += GRACE_NS // 2
    patient.restart()

    assert patient.consumer.next_due_ns == patient.now_ns + GRACE_NS
    assert after(patient, GRACE_NS - 1) == []
    assert after(patient, 1) == [(1,)]
    assert len(patient.outbox()) == 1


def test_the_newest_turn_does_not_wait_at_all_until_there_is_a_newer_one(patient: World) -> None:
    worker = FakeWorker()
    patient.apply(*worker.complete(T1))
    patient.apply(worker.evict(worker.blocks_of(T1)))
    assert after(patient, 10 * GRACE_NS) == []

    patient.apply(*worker.complete(T2, started_unix_ns=99))
    assert after(patient, GRACE_NS) == [(1,)]


def test_turns_that_wait_are_counted(patient: World) -> None:
    worker, said = FakeWorker(), [*T1, *T2]
    patient.apply(*worker.complete(said))
    patient.apply(worker.evict(array("Q", worker.blocks_of(said)[1:2])))

    assert patient.count("shepherd_memory_turns_in_grace") == 1
    after(patient, GRACE_NS)
    assert patient.count("shepherd_memory_turns_in_grace") == 0
