"""What whoever runs the service may do with the archives of all tenants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shepherd_auth.key_file import KeyFile
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import ArchiveStats, DeadLetter
from shepherd_memory.config import MemoryConfig
from shepherd_memory.delivery import SINK_PREFIX
from shepherd_memory.errors import ConflictError, UnknownItemError
from shepherd_memory.memory import Means


@dataclass(frozen=True, slots=True)
class Administration:
    """Dead letters, sizes, copies, keys; event loop only."""

    config: MemoryConfig
    means: Means
    archive_name_of: Callable[[str], str]
    """From a tenant's own name to that of its archive."""

    async def archives(self) -> Sequence[str]:
        """The names of all archives, in order."""
        return sorted(await asyncio.to_thread(self.means.archives.tenants))

    async def stats(self, archive: str) -> ArchiveStats:
        """How much an archive holds.

        Raises:
            UnknownItemError: there is no such archive.
        """
        opened = await self._opened(archive)
        return await asyncio.to_thread(opened.stats)

    async def dead_letters(self, archive: str, *, after: str, limit: int) -> list[DeadLetter]:
        """What could not be applied or delivered, by name, those behind `after`.

        Raises:
            UnknownItemError: there is no such archive.
        """
        opened = await self._opened(archive)
        return await asyncio.to_thread(opened.dead_letters, after=after, limit=limit)

    async def drop_dead_letter(self, archive: str, name: str) -> None:
        """Forget a dead letter for good.

        Raises:
            UnknownItemError: there is no such archive or letter.
        """
        opened = await self._opened(archive)

        def drop() -> bool:
            with opened.writing() as writer:
                return writer.drop_dead_letter(name)

        if not await self.means.writer.run(drop):
            raise UnknownItemError("dead letter", name)

    async def replay_dead_letter(self, archive: str, name: str) -> bool:
        """Apply a completed request that could not be applied before; says whether it is gone now.

        Raises:
            UnknownItemError: there is no such archive or letter.
        """
        await self._opened(archive)
        if name.startswith(SINK_PREFIX):
            raise ConflictError("name", "a sink refused this notice: it is in the outbox still")
        return await self.means.writer.run(lambda: self.means.replay_dead_letter(archive, name))

    async def backup(self, name: str | None) -> Path:
        """Copy every archive into a new directory below `data_dir/backups`; returns it.

        Raises:
            ConflictError: there is one of this name, or the archive is in a database.
        """
        if self.config.uses_postgres:
            raise ConflictError("name", "the archive is in PostgreSQL: copy it with pg_dump")
        stamp = datetime.fromtimestamp(self.means.clocks.unix_ns() / 1e9, UTC)
        directory = self.config.data_path / "backups" / (name or f"{stamp:%Y%m%dT%H%M%SZ}")
        try:
            await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True)
        except FileExistsError:
            raise ConflictError("name", f"there is a backup {directory.name!r}") from None
        for place, archive in enumerate(await self.archives()):
            opened = await self._opened(archive)
            await asyncio.to_thread(opened.backup, directory / f"{place:06}.db")
        return directory

    def keys(self) -> KeyFile:
        """The file of API keys.

        Raises:
            UnknownItemError: the service has none.
        """
        if not self.config.api_keys_file:
            raise UnknownItemError("file of keys", "--api-keys-file")
        return KeyFile(Path(self.config.api_keys_file).expanduser(), now_unix_s=time.time)

    async def _opened(self, archive: str) -> Archive:
        if archive not in await asyncio.to_thread(self.means.archives.tenants):
            raise UnknownItemError("archive", archive)
        return await asyncio.to_thread(self.means.archives.of, archive)
