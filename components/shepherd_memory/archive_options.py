"""The options of where the archive is: in files, in PostgreSQL for several replicas, or elsewhere."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shepherd_auth.errors import CredentialFileError
from shepherd_auth.private_file import read_private
from shepherd_config import OptionError, option
from shepherd_memory.archive.foreign import load_archives
from shepherd_memory.delivery_options import DeliveryOptions

if TYPE_CHECKING:
    from shepherd_memory.archive.postgres_pool import PostgresOptions

SQLITE = "sqlite"
_SCHEMES = ("postgresql://", "postgres://")
_EXPECTED = "sqlite or postgresql://role@host/database"
_ENCRYPTED = ("require", "verify-ca", "verify-full")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOptions(DeliveryOptions):
    """Which database keeps the archive; inherited by the memory service's configuration."""

    archive: str = option(
        "Where turns are kept: sqlite, in --data-dir; a URL as postgresql://role@host/database?sslmode=verify-full without a password; or MODULE:FACTORY of your own.",
        default=SQLITE,
        group="archive",
    )
    archive_password_file: str = option(
        "File of mode 600 with the role's password.", default="", group="archive"
    )
    archive_owner_url_file: str = option(
        "File of mode 600 with the URL of the role that owns the tables and makes them; empty where it is the same role.",
        default="",
        group="archive",
    )
    archive_schema: str = option(
        "Schema of the tables; made when missing.", default="shepherd", group="archive"
    )
    archive_connections: int = option(
        "Connections to PostgreSQL that a replica opens at most.",
        default=8,
        minimum=2,
        maximum=1000,
        group="archive",
        unit="connections",
    )
    archive_connect_timeout_s: float = option(
        "Seconds that getting a connection to PostgreSQL may take; a server that says nothing for as long is given up.",
        default=5.0,
        minimum=0.1,
        group="archive",
    )
    archive_statement_timeout_s: float = option(
        "Seconds that a statement may take.", default=30.0, minimum=0.1, group="archive"
    )
    archive_lock_timeout_s: float = option(
        "Seconds that a statement waits for other replicas.",
        default=5.0,
        minimum=0.1,
        group="archive",
    )
    archive_lease_s: float = option(
        "Seconds after which another replica takes over the streams of one that is gone.",
        default=10.0,
        minimum=0.5,
        group="archive",
    )

    @property
    def uses_postgres(self) -> bool:
        """Whether several replicas may share the archive."""
        return "://" in self.archive

    @property
    def uses_foreign(self) -> bool:
        """Whether somebody else's store keeps the archive, in --data-dir or wherever it likes."""
        return self.archive != SQLITE and not self.uses_postgres

    def postgres(self) -> PostgresOptions:
        """How the service's own role reaches the database.

        Raises:
            OptionError: a file cannot be used.
        """
        from shepherd_memory.archive.postgres_pool import PostgresOptions  # noqa: PLC0415 - an extra

        return PostgresOptions(
            url=self.archive,
            password=_read("--archive-password-file", self.archive_password_file),
            schema=self.archive_schema,
            max_connections=self.archive_connections,
            connect_timeout_s=self.archive_connect_timeout_s,
            lock_timeout_s=self.archive_lock_timeout_s,
            statement_timeout_s=self.archive_statement_timeout_s,
        )

    def postgres_owner(self) -> PostgresOptions | None:
        """How the tables' owner reaches it; None where that is the same role.

        Raises:
            OptionError: the file cannot be used.
        """
        url = _read("--archive-owner-url-file", self.archive_owner_url_file)
        return replace(self.postgres(), url=url, password="") if url else None

    def check_archive(self) -> None:
        """Look at the options as a whole.

        Raises:
            OptionError: no database is named, a password stands where it can be seen, the way is
                open beyond loopback, the extra is missing.
        """
        if self.uses_foreign:
            _check_foreign(self.archive)
        if not self.uses_postgres:
            return
        if not self.archive.startswith(_SCHEMES):
            raise OptionError("--archive", "...", f"{_EXPECTED} or MODULE:FACTORY")
        try:
            from psycopg import ProgrammingError  # noqa: PLC0415 - an extra
            from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - an extra
            from psycopg_pool import ConnectionPool  # noqa: PLC0415, F401 - an extra
        except ModuleNotFoundError as error:
            raise OptionError(
                "--archive", "postgresql", "the extra shepherd-worker[postgres]", f"; {error}"
            ) from error
        try:
            parts = conninfo_to_dict(self.archive)
        except ProgrammingError as error:
            raise OptionError("--archive", "...", "a URL as libpq reads it") from error
        if parts.get("password"):
            raise OptionError("--archive", "...", "no password in it: --archive-password-file")
        host = str(parts.get("host") or "")
        if not _is_local(host) and parts.get("sslmode") not in _ENCRYPTED:
            raise OptionError(
                "--archive", host, "?sslmode=verify-full (or require, verify-ca) beyond loopback"
            )
        self.postgres()
        self.postgres_owner()


def _check_foreign(name: str) -> None:
    try:
        load_archives(name)
    except ValueError as error:
        raise OptionError(
            "--archive", name, f"{_EXPECTED} or MODULE:FACTORY", f"; {error}"
        ) from error


def _read(flag: str, path: str) -> str:
    if not path:
        return ""
    try:
        return read_private(Path(path).expanduser()).decode().strip()
    except (CredentialFileError, UnicodeDecodeError) as error:
        raise OptionError(flag, path, "a file of mode 600", f"; {error}") from error


def _is_local(host: str) -> bool:
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
