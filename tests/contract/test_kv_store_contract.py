"""What every store of KV blocks promises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.block_file import HEADER_BYTES
from shepherd_worker.engine.connector.disk import DiskStore
from shepherd_worker.engine.connector.memory import MemoryStore, Shelf
from shepherd_worker.engine.connector.protocol import KvStore

FINGERPRINT = bytes(range(32))
BLOCK_BYTES = 96
CHAIN = [BlockHash(0xA0 + i) for i in range(4)]


class OpenStore(Protocol):
    """Opens one more store at the same place."""

    def __call__(
        self, num_blocks: int = ..., fingerprint: bytes = ..., block_bytes: int = ...
    ) -> KvStore: ...


@pytest.fixture(params=["disk", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Stores that find each other's blocks and have room for a number of them."""
    shelf, disk = Shelf(), request.param == "disk"

    def make(
        num_blocks: int = 1000, fingerprint: bytes = FINGERPRINT, block_bytes: int = BLOCK_BYTES
    ) -> KvStore:
        size = num_blocks * (block_bytes + (HEADER_BYTES if disk else 0))
        path = str(tmp_path / "kv")
        store: KvStore = DiskStore(path, size) if disk else MemoryStore("", size, shelf=shelf)
        store.open(fingerprint, block_bytes)
        return store

    return make


def record(block_hash: int, num_bytes: int = BLOCK_BYTES) -> bytes:
    """Different for every block."""
    return block_hash.to_bytes(8, "little") * (num_bytes // 8)


def save_all(store: KvStore, hashes: list[BlockHash]) -> list[bool]:
    return [store.save(block_hash, record(block_hash)) for block_hash in hashes]


def test_what_was_saved_is_found_and_loaded_by_another_store(open_store: OpenStore) -> None:
    first = open_store()
    assert save_all(first, CHAIN) == [True] * 4
    first.close()
    second = open_store()

    assert second.find(CHAIN) == [True] * 4
    assert [bytes(r) for r in second.load(CHAIN)] == [record(h) for h in CHAIN]


def test_a_block_is_saved_once(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()

    assert store.save(CHAIN[0], record(CHAIN[0])) is True
    assert store.save(CHAIN[0], record(CHAIN[0])) is False
    assert other.save(CHAIN[0], record(CHAIN[0])) is False


def test_loading_ends_before_the_first_block_that_is_missing(open_store: OpenStore) -> None:
    store = open_store()
    save_all(store, [CHAIN[0], CHAIN[1], CHAIN[3]])

    assert store.find(CHAIN) == [True, True, False, True]
    assert [bytes(r) for r in store.load(CHAIN)] == [record(h) for h in CHAIN[:2]]
    assert store.load(CHAIN[2:]) == []


def test_models_find_nothing_of_each_other(open_store: OpenStore) -> None:
    save_all(open_store(), CHAIN)
    other_model = open_store(fingerprint=bytes(32))

    assert other_model.find(CHAIN) == [False] * 4
    assert other_model.load(CHAIN) == []
    assert save_all(other_model, CHAIN) == [True] * 4


def test_the_least_recently_used_block_leaves_first(open_store: OpenStore) -> None:
    store = open_store(num_blocks=16)
    hashes = [BlockHash(i) for i in range(1, 16)]
    save_all(store, hashes)
    store.find([hashes[0], hashes[1]])
    newcomers = [BlockHash(i) for i in range(100, 110)]
    save_all(store, newcomers)

    there = store.find([*hashes, *newcomers])
    assert there[:2] == [True, True]
    assert there[2:].index(True) == there[2:].count(False), "only the oldest ones left"
    assert 8 <= there[2:].count(False) <= 12
    assert store.counters().blocks_evicted == there.count(False)


def test_a_chain_loses_its_end_before_its_beginning(open_store: OpenStore) -> None:
    store = open_store(num_blocks=16)
    chain = [BlockHash(i) for i in range(1, 9)]
    save_all(store, chain)
    store.find(chain)
    save_all(store, [BlockHash(i) for i in range(100, 112)])

    there = store.find(chain)
    assert there == sorted(there, reverse=True)
    assert 0 < there.count(True) < 8


def test_many_threads_save_and_load_at_once(open_store: OpenStore) -> None:
    store = open_store(num_blocks=64)
    wrong: list[BlockHash] = []

    def work(seed: int) -> None:
        for i in range(120):
            block_hash = BlockHash(1 + (seed * 31 + i * 7) % 90)
            store.save(block_hash, record(block_hash))
            loaded = store.load([block_hash])
            wrong.extend(block_hash for r in loaded if bytes(r) != record(block_hash))

    run_at_once(work, 4)

    assert wrong == []
    assert store.counters().blocks_corrupt == 0


def run_at_once(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
