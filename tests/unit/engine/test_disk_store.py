"""A directory of KV blocks: its bytes, its rights, its damages, its size."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector import create_store
from shepherd_worker.engine.connector.block_file import HEADER_BYTES, encode_header
from shepherd_worker.engine.connector.disk import DiskStore
from shepherd_worker.engine.connector.disk_space import ABANDONED_S
from shepherd_worker.errors import UnusableInputError

FINGERPRINT = bytes(range(32))
BLOCK_BYTES = 64
FILE_BYTES = HEADER_BYTES + BLOCK_BYTES
HASH = BlockHash(0x3FA2000000000001)
NAME = "v1-000102030405060708090a0b0c0d0e0f-64/3f/3fa2000000000001.kv"
RECORD = bytes(range(64))


def open_store(path: Path, size_bytes: int = 1 << 20, **edge: Callable[[], int]) -> DiskStore:
    store = DiskStore(str(path), size_bytes, **edge)
    store.open(FINGERPRINT, BLOCK_BYTES)
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv"


def files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_a_block_is_a_file_of_this_name_and_these_bytes(path: Path) -> None:
    open_store(path).save(HASH, RECORD)

    assert files(path) == [NAME]
    head = bytes.fromhex(
        "534b5642"  # SKVB
        "01000000"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "010000000000a23f"
        "4000000000000000"
    )
    checksum = xxhash.xxh3_64_intdigest(head + RECORD)
    assert checksum == 0x77A21014DAD29BBE
    assert (path / NAME).read_bytes() == head + struct.pack("<Q", checksum) + RECORD


def test_files_and_directories_are_for_their_owner_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        open_store(path).save(HASH, RECORD)
    finally:
        os.umask(old)

    modes = {stat.S_IMODE(p.stat().st_mode) for p in (path, *path.rglob("*")) if p.is_dir()}
    assert modes == {0o700}
    assert stat.S_IMODE((path / NAME).stat().st_mode) == 0o600


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "a header alone": lambda whole: whole[:HEADER_BYTES],
    "without its last byte": lambda whole: whole[:-1],
    "with a byte too many": lambda whole: whole + b"\0",
    "another format": lambda whole: b"PK\3\4" + whole[4:],
    "another version": lambda whole: whole[:4] + b"\2" + whole[5:],
    "another model's": lambda _: encode_header(bytes(32), HASH, RECORD) + RECORD,
    "another block's": lambda _: encode_header(FINGERPRINT, BlockHash(7), RECORD) + RECORD,
    "another layout's": lambda _: encode_header(FINGERPRINT, HASH, RECORD[:32]) + RECORD[:32],
    "a flipped bit in the record": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "a flipped bit in the checksum": lambda whole: whole[:56] + bytes([whole[56] ^ 1]) + whole[57:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_the_block_is_a_miss_and_makes_room_for_it(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(path)
    store.save(HASH, RECORD)
    (path / NAME).write_bytes(DAMAGES[damage]((path / NAME).read_bytes()))

    assert store.find([HASH]) == [True]
    assert store.load([HASH]) == []
    assert store.counters().blocks_corrupt == 1
    assert [r.message for r in caplog.records] == [
        f"{path / NAME} is damaged or foreign and is removed; further ones are only counted"
    ]
    assert store.find([HASH]) == [False]
    assert store.save(HASH, RECORD) is True
    assert store.load([HASH]) == [RECORD]


def test_a_block_that_is_removed_between_find_and_load_is_a_miss(path: Path) -> None:
    store = open_store(path)
    store.save(HASH, RECORD)
    assert store.find([HASH]) == [True]
    (path / NAME).unlink()

    assert store.load([HASH]) == []
    assert store.counters().blocks_corrupt == 0


def test_a_directory_that_is_removed_meanwhile_is_made_again(path: Path) -> None:
    store = open_store(path)
    store.save(HASH, RECORD)
    subprocess.run(["rm", "-r", str(path)], check=True)

    assert store.find([HASH]) == [False]
    assert store.load([HASH]) == []
    assert store.save(HASH, RECORD) is True
    assert store.load([HASH]) == [RECORD]


def test_what_cannot_be_written_leaves_no_part_of_itself(path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from test_disk_store import *\n"
        "store = open_store(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES - 1, FILE_BYTES - 1))\n"
        "try:\n    store.save(HASH, RECORD)\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "27\n"
    assert files(path) == []


def test_a_store_never_takes_more_than_its_size(path: Path) -> None:
    store = open_store(path, 20 * FILE_BYTES)
    for i in range(1, 100):
        store.save(BlockHash(i), RECORD)
        assert sum(p.stat().st_size for p in path.rglob("*.kv")) <= 20 * FILE_BYTES

    assert store.counters().blocks_evicted == 99 - len(files(path))
    assert len(files(path)) >= 17


def test_the_size_is_that_of_all_models_together(path: Path) -> None:
    small = open_store(path, 20 * FILE_BYTES)
    for i in range(1, 19):
        small.save(BlockHash(i), RECORD)
    other = DiskStore(str(path), 20 * FILE_BYTES)
    other.open(bytes(32), BLOCK_BYTES)
    for i in range(1, 19):
        other.save(BlockHash(i), RECORD)

    assert len(files(path)) <= 20
    assert small.find([BlockHash(1)]) == [False]
    assert other.find([BlockHash(18)]) == [True]


def test_only_files_that_are_ours_are_ever_removed(path: Path) -> None:
    store = open_store(path, 4 * FILE_BYTES)
    foreign = [path / "notes.kv", path / "v1-x" / "3f" / "0.kv", (path / NAME).with_name("a.kv")]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(10 * FILE_BYTES))
    for i in range(1, 30):
        store.save(BlockHash(i), RECORD)

    assert all(file.exists() for file in foreign)


def test_files_that_nobody_will_finish_are_removed(path: Path) -> None:
    store = open_store(path)
    store.save(HASH, RECORD)
    left = (path / NAME).with_name(".3fa2000000000002.0123abcd.tmp")
    left.write_bytes(bytes(10))
    now = time.time_ns()

    open_store(path, clock_ns=lambda: now + (ABANDONED_S - 60) * 10**9)
    assert left.exists()
    open_store(path, clock_ns=lambda: now + (ABANDONED_S + 60) * 10**9)
    assert files(path) == [NAME]


@pytest.mark.parametrize("location", ["", "/dev/null", "/dev/null/kv", "/proc/kv"])
def test_a_location_that_is_no_directory_is_told_by_name(location: str) -> None:
    with pytest.raises(UnusableInputError, match=r"--kv-connector: .*director") as raised:
        DiskStore(location, 1 << 20)

    assert location in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_directory_that_others_may_write_is_refused(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)

    with pytest.raises(UnusableInputError, match="writable by nobody else"):
        DiskStore(str(path), 1 << 20)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("redis://host", r"neither disk, memory nor .*: No module named 'redis'"),
        ("disk", "names no directory"),
        ("memory:somewhere", "takes no location"),
        ("nowhere:Store:x", "No module named 'nowhere'"),
        ("shepherd_worker.request:NoStore", "no attribute 'NoStore'"),
        ("floppy", "expected disk, memory or package.module:Factory, then a colon"),
    ],
)
def test_a_name_that_is_no_store_is_told_with_what_is(spec: str, reason: str) -> None:
    with pytest.raises(UnusableInputError, match=reason):
        create_store(spec, 1 << 20)


def test_a_store_of_ones_own_is_a_factory_in_a_module(path: Path) -> None:
    store = create_store(f"{DiskStore.__module__}:DiskStore:{path}", 1 << 20)

    assert isinstance(store, DiskStore)
    assert path.is_dir()


WORK = """
import sys, time
from test_disk_store import *
path, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
store = open_store(path, 40 * FILE_BYTES)
hits = wrong = 0
end = time.monotonic() + seconds
i = seed
while time.monotonic() < end:
    i += 1
    number = BlockHash(1 + i * 7 % 64)
    expected = number.to_bytes(8, "little") * 8
    store.save(number, expected)
    loaded = store.load([BlockHash(1 + i * 5 % 64)])
    hits += len(loaded)
    wrong += sum(bytes(r) != (1 + i * 5 % 64).to_bytes(8, "little") * 8 for r in loaded)
    if i == seed + 50:
        print("busy", flush=True)
print(hits, wrong, store.counters().blocks_corrupt, store.counters().blocks_evicted)
"""


def worker(path: Path, seed: int, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(path), str(seed), str(seconds)],
        env={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def two_workers(path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that save, load and evict the same blocks."""
    workers = [worker(path, seed, 0.5) for seed in (0, 33)]
    yield workers
    for process in workers:
        process.kill()
        process.communicate()


def test_two_processes_save_load_and_evict_in_one_directory(
    path: Path, two_workers: list[subprocess.Popen[str]]
) -> None:
    results = []
    for process in two_workers:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        results.append([int(word) for word in out.split()[1:]])

    assert all(hits > 0 and evicted > 0 for hits, _, _, evicted in results)
    assert [(wrong, corrupt) for _, wrong, corrupt, _ in results] == [(0, 0), (0, 0)]
    sixteenth_more = 40 + 40 // 16 + 1
    assert len(list(path.rglob("*.kv"))) <= sixteenth_more


def test_what_a_killed_process_leaves_is_whole(
    path: Path, two_workers: list[subprocess.Popen[str]]
) -> None:
    for process in two_workers:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = open_store(path, 40 * FILE_BYTES)
    hashes = [BlockHash(i) for i in range(1, 65)]
    there = [h for h, found in zip(hashes, store.find(hashes), strict=True) if found]

    assert len(there) > 10
    assert [r for h in there for r in store.load([h])] == [
        h.to_bytes(8, "little") * 8 for h in there
    ]
    assert store.counters().blocks_corrupt == 0
