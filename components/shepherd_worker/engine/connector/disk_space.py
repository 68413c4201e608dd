"""How much a directory of KV blocks takes, and which blocks leave it.

Knows names, sizes and times of last use, nothing of contents; removes nothing
that does not look like a block.  Every process that shares the directory looks
at it again each time it has written a sixteenth of the limit, and removes the
least recently used blocks, whoever wrote them.  So one process stays within the
limit, and each further one may exceed it by a sixteenth.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

ABANDONED_S = 600
"""A file that has been written for so long has nobody who will finish it."""
_MODEL = re.compile(r"v\d+-[0-9a-f]{32}-\d+")
_SHARD = re.compile(r"[0-9a-f]{2}")
_BLOCK = re.compile(r"[0-9a-f]{16}\.kv")
_UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.[0-9a-f]+\.tmp")


class DiskSpace:
    """See the module's docstring; for any thread."""

    def __init__(self, root: Path, size_bytes: int, clock_ns: Callable[[], int]) -> None:
        self.num_evicted_total = 0
        self._root = root
        self._size_bytes = size_bytes
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._allowance = 0
        """Bytes that may be written before the directory is looked at again."""

    def make_room(self, num_bytes: int) -> None:
        """Have room for `num_bytes` bytes more.

        Raises:
            OSError: the directory cannot be read.
        """
        with self._lock:
            if num_bytes >= self._allowance:
                self._allowance = max(self._size_bytes // 16, num_bytes)
                self._evict(self._size_bytes - self._allowance)
            self._allowance -= num_bytes

    def _evict(self, limit: int) -> None:
        """Remove blocks, the least recently used first, until the rest takes at most `limit`."""
        abandoned_ns = self._clock_ns() - ABANDONED_S * 10**9
        blocks: list[tuple[int, int, str]] = []
        total = 0
        for path, status in self._files():
            if path.endswith(".kv"):
                blocks.append((status.st_mtime_ns, status.st_size, path))
            elif status.st_mtime_ns < abandoned_ns:
                _remove(path)
                continue
            total += status.st_size
        blocks.sort(reverse=True)
        while total > limit and blocks:
            _, num_bytes, path = blocks.pop()
            total -= num_bytes
            self.num_evicted_total += _remove(path)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for model in _entries(str(self._root), _MODEL):
            for shard in _entries(model.path, _SHARD):
                for file in (*_entries(shard.path, _BLOCK), *_entries(shard.path, _UNFINISHED)):
                    with suppress(FileNotFoundError):
                        yield file.path, file.stat(follow_symlinks=False)


def _entries(directory: str, pattern: re.Pattern[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if pattern.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: str) -> bool:
    """Whether it was this call that removed the file."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True
