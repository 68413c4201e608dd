"""What waits to be saved is bounded, saved children first, and accounted for to the last block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from kv_stores import Gate, failing
from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.memory import MemoryStore, Shelf
from shepherd_worker.engine.connector.save_queue import SaveQueue

HASHES = [BlockHash(i) for i in range(1, 5)]
RECORDS = [bytes([i]) * 8 for i in range(1, 5)]


def queue_to(store: MemoryStore, num_blocks: int = 8) -> SaveQueue:
    queue = SaveQueue(store, block_bytes=8, limit_bytes=8 * num_blocks)
    queue.start()
    return queue


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def test_a_run_is_saved_children_first() -> None:
    shelf = Shelf()
    queue = queue_to(MemoryStore(shelf=shelf))
    queue.put(HASHES, RECORDS)

    assert queue.flush(5)
    assert [block_hash for _, block_hash in shelf.records] == HASHES[::-1]
    assert list(shelf.records.values()) == RECORDS[::-1]
    assert (queue.num_saved_total, queue.num_dropped_total) == (4, 0)
    assert queue.stop(5)


def test_there_is_room_for_what_is_not_pending() -> None:
    gate = Gate("save")
    queue = queue_to(MemoryStore(before=gate), num_blocks=6)
    assert queue.room() == 6
    queue.put(HASHES, RECORDS)

    assert queue.room() == 2
    assert queue.flush(0.01) is False
    gate.open()
    assert queue.flush(5)
    assert queue.room() == 6
    assert queue.stop(5)


def test_what_is_known_is_neither_saved_nor_dropped() -> None:
    queue = queue_to(MemoryStore())
    queue.put(HASHES, RECORDS)
    queue.put(HASHES, RECORDS)

    assert queue.flush(5)
    assert (queue.num_saved_total, queue.num_dropped_total) == (4, 0)
    assert queue.stop(5)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("unforeseen")])
def test_what_cannot_be_saved_is_dropped_and_the_next_is_tried(error: Exception) -> None:
    queue = queue_to(MemoryStore(before=failing("save", error)))
    queue.put(HASHES, RECORDS)

    assert queue.flush(5)
    assert (queue.num_dropped_total, queue.failures.total) == (4, 4)
    assert queue.stop(5)


def test_stopping_drops_what_is_pending_and_counts_it() -> None:
    gate = Gate("save")
    queue = queue_to(MemoryStore(before=gate))
    queue.put(HASHES, RECORDS)
    queue.put(HASHES, RECORDS)
    stopping = threading.Thread(target=queue.stop, args=(10,))
    wait_for(lambda: gate.num_waiting == 1)
    stopping.start()
    wait_for(lambda: queue.room() == 0)
    gate.open()
    stopping.join()
    queue.put(HASHES, RECORDS)

    assert (queue.num_saved_total, queue.num_dropped_total) == (1, 7 + 4)
    assert queue.flush(0) is True
