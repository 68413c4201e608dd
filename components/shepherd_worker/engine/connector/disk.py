"""KV blocks as files of a directory that any number of workers may share.

    PATH/                                           0700, ours alone
      v1-<half the fingerprint>-<record bytes>/     one per model, type and layout
        3f/3fa2...c1.kv                             a block, by its hash; 0600
        3f/.3fa2...c1.<random>.tmp                  one that is being written

A block gets its name only when it is whole, and its content never changes, so
readers and writers need no lock and no server.  Nothing is synced to the disk:
what a power failure leaves is told by length and checksum and computed again.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from shepherd_events.events import BlockHash
from shepherd_worker.engine.connector.block_file import (
    HEADER_BYTES,
    VERSION,
    encode_header,
    is_header_of,
)
from shepherd_worker.engine.connector.disk_space import DiskSpace
from shepherd_worker.engine.connector.protocol import Record, StoreCounters
from shepherd_worker.errors import UnusableInputError

log = logging.getLogger(__name__)

_NOT_THERE = (errno.ENOENT, errno.ESTALE)


class DiskStore:
    """A `KvStore`; see the module's docstring."""

    def __init__(
        self, location: str, size_bytes: int, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Make the directory `location` if need be; its files take at most `size_bytes` bytes.

        Raises:
            UnusableInputError: it cannot be made or written, or others may write it.
        """
        self._root = _usable_directory(location)
        self._size_bytes = size_bytes
        self._space = DiskSpace(self._root, size_bytes, clock_ns)
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._last_used_ns = 0
        self._num_corrupt = 0
        self._fingerprint = b""
        self._block_bytes = 0
        self._directory = self._root

    def open(self, fingerprint: bytes, block_bytes: int) -> None:
        """See `KvStore.open`."""
        file_bytes = HEADER_BYTES + block_bytes
        if file_bytes > self._size_bytes:
            raise UnusableInputError(
                f"--kv-connector-size: {self._size_bytes} bytes have no room for one block of "
                f"{file_bytes} bytes"
            )
        self._fingerprint, self._block_bytes = fingerprint, block_bytes
        self._directory = self._root / f"v{VERSION}-{fingerprint[:16].hex()}-{block_bytes}"
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._space.make_room(0)
        except OSError as error:
            raise UnusableInputError(_unusable(self._root, error)) from error

    def find(self, hashes: Sequence[BlockHash]) -> list[bool]:
        """See `KvStore.find`."""
        now = self._use(len(hashes))
        return [_touch(self._file(h), now - depth) for depth, h in enumerate(hashes)]

    def load(self, hashes: Sequence[BlockHash]) -> list[Record]:
        """See `KvStore.load`."""
        records: list[Record] = []
        for block_hash in hashes:
            record = self._read(block_hash)
            if record is None:
                break
            records.append(record)
        return records

    def save(self, block_hash: BlockHash, record: Record) -> bool:
        """See `KvStore.save`."""
        path = Path(self._file(block_hash))
        now = self._use(1)
        if _touch(path, now):
            return False
        header = encode_header(self._fingerprint, block_hash, record)
        self._space.make_room(len(header) + len(record))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
        try:
            with os.fdopen(_create_private(temporary), "wb") as file:
                file.write(header)
                file.write(record)
            os.utime(temporary, ns=(now, now))
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        return True

    def counters(self) -> StoreCounters:
        """See `KvStore.counters`."""
        return StoreCounters(
            blocks_corrupt=self._num_corrupt, blocks_evicted=self._space.num_evicted_total
        )

    def close(self) -> None:
        """See `KvStore.close`."""

    def _file(self, block_hash: BlockHash) -> str:
        name = f"{block_hash:016x}"
        return f"{self._directory}/{name[:2]}/{name}.kv"

    def _use(self, num_blocks: int) -> int:
        """A time of last use that leaves room for `num_blocks` different ones before it."""
        with self._lock:
            self._last_used_ns = max(self._clock_ns(), self._last_used_ns + num_blocks)
            return self._last_used_ns

    def _read(self, block_hash: BlockHash) -> bytes | None:
        path = Path(self._file(block_hash))
        try:
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
                record = file.read(self._block_bytes)
                rest = file.read(1)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise
        whole = len(record) == self._block_bytes and not rest
        if whole and is_header_of(header, self._fingerprint, block_hash, record):
            return record
        self._discard(path)
        return None

    def _discard(self, path: Path) -> None:
        """Remove a block that is not what its name says; it is computed and saved again."""
        with self._lock:
            self._num_corrupt += 1
            first = self._num_corrupt == 1
        if first:
            log.warning(
                "%s is damaged or foreign and is removed; further ones are only counted", path
            )
        with suppress(OSError):
            path.unlink()


def _touch(path: str | Path, time_ns: int) -> bool:
    """Whether the file is there; sets when it was last used."""
    try:
        os.utime(path, ns=(time_ns, time_ns))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise
    return True


def _create_private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _usable_directory(location: str) -> Path:
    if not location:
        raise UnusableInputError("--kv-connector: 'disk:' names no directory: expected disk:PATH")
    path = Path(location).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        status = path.stat()
    except OSError as error:
        raise UnusableInputError(_unusable(path, error)) from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnusableInputError(
            f"--kv-connector: {path} must belong to this user and be writable by nobody else "
            "(chmod 700), for what is read from it becomes part of answers"
        )
    return path


def _unusable(path: Path, error: OSError) -> str:
    return f"--kv-connector: {path} cannot be used as a directory to write to: {error.strerror}"
