"""How much room the stores take, measured now and then.

`archives` is what all tenants have together, never one of them; `index` is what is
kept of the blocks, so that a restart resumes.  Measuring blocks and never locks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from shepherd_memory.errors import StoreUnavailableError
from shepherd_memory.metrics import Metrics

log = logging.getLogger(__name__)

INTERVAL_S = 60.0

Sizes = Callable[[], Mapping[str, int]]
"""Bytes by what they hold; blocks.  Raises StoreUnavailableError or OSError."""


def files_in(directory: Path) -> dict[str, int]:
    """What a data directory of SQLite's files takes, their logs included."""
    return {
        "archives": sum(map(_size_of, (directory / "tenants").iterdir())),
        "index": sum(map(_size_of, directory.glob("index.db*"))),
    }


async def keep_measuring(
    sizes: Sizes,
    metrics: Metrics,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Until cancelled; a store that cannot be asked keeps the size that it had."""
    while True:
        try:
            found = await asyncio.to_thread(sizes)
        except (StoreUnavailableError, OSError) as error:
            log.info("the stores cannot be measured now: %s", error)
        else:
            for store, size_bytes in found.items():
                metrics.stored_bytes.labels(store).set(size_bytes)
        await sleep(INTERVAL_S)


def _size_of(path: Path) -> int:
    """0 of a file that is gone by now: a log that was taken over."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
