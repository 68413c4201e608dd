"""A memory in a process of its own on a real PostgreSQL, and whoever asks it while that breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
from psycopg import sql

from line_process import LineProcess
from memory_oracle import eventually, kept, talk, truth
from nats_broker import NatsBroker
from postgres_server import OWNER, SERVICE, PostgresServer
from publishing_worker import PublishingWorker
from shepherd_events.events import StreamId
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.errors import StoreUnavailableError

PROGRAM = str(Path(__file__).parent / "replica_process.py")
CONNECT_S, STATEMENT_S, LOCK_S, LEASE_S = 0.5, 0.8, 0.4, 0.6
MAX_CONNECTIONS = 3
MARGIN_S = 10.0
"""Of a machine that does other things as well."""
_TOOL = {"arguments": {"query": "much"}}
_DOORS: list[tuple[str, str, object]] = [
    ("GET", "/v1/search?query=much", None),
    ("GET", "/v1/context?query=much", None),
    ("GET", "/v1/sessions", None),
    ("GET", "/v1/notices", None),
    ("GET", "/v1/notices/stream", None),
    ("GET", "/v1/export", None),
    ("GET", "/v1/facts/colour", None),
    ("POST", "/v1/tools/search_memory", _TOOL),
    ("PUT", "/v1/facts/colour", {"value": "blue"}),
    ("DELETE", "/v1/sessions/nobody", None),
    ("GET", "/ui/", None),
]


class House:
    """The memory and what it depends on."""

    def __init__(
        self,
        server: PostgresServer,
        options: PostgresOptions,
        memory: LineProcess,
        worker: PublishingWorker,
        *,
        owner: str = "",
    ) -> None:
        """`owner` is the URL of the tables' owner, if not the server's own."""
        self.server = server
        self.schema = options.schema
        self._pool = PostgresPool(replace(options, url=owner or server.url(OWNER)))
        self._archives = PostgresArchives(self._pool)
        self._memory = memory
        self._worker = worker
        self._num_sessions = 0

    def talk(self, number: int = 2) -> str:
        """So many more sessions; returns the name of the last."""
        for _ in range(number):
            self._num_sessions += 1
            talk(self._worker, f"session{self._num_sessions}")
        return f"session{self._num_sessions}"

    def ask(
        self, path: str, method: str = "GET", body: object = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(
            f"{self._memory.started['url']}{path}",
            data,
            {"content-type": "application/json"} if data else {},
            method=method,
        )
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, dict(refusal.headers), refusal.read()

    def health(self) -> tuple[int, dict[str, Any]]:
        status, _, body = self.ask("/health")
        return status, json.loads(body)

    def reason(self) -> str:
        """Why the store cannot be used, as `/health` has it; empty where it can."""
        status, document = self.health()
        assert (status == 200) == (document["store"]["state"] == "ok"), document
        return str(document["store"]["reason"] or "")

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[2].decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def waits_for(self, *words: str) -> str:
        """Until the memory says one of these of its store; returns all that it says."""
        said: list[str] = []

        def is_said() -> bool:
            said.append(self.reason())
            return any(word in said[-1] for word in words)

        eventually(is_said, lambda: set(said))
        return said[-1]

    def is_whole(self) -> None:
        """Comes to hold everything once, and to say that all is well."""
        expected = truth(self._worker)
        held: dict[str, Any] = {}

        def is_so() -> bool:
            with suppress(StoreUnavailableError):
                held.update(kept(self._archives))
            return held == expected

        eventually(is_so, lambda: (held, expected))
        eventually(lambda: self.health()[0] == 200, self.health)
        assert self.metric("shepherd_memory_store_up") == 1
        assert self.metric("shepherd_memory_poison_frames_total") == 0

    def refuses_everybody(self) -> float:
        """All doors say when to come back, all at once; returns the seconds of the slowest."""

        def knock(door: tuple[str, str, object]) -> float:
            method, path, body = door
            began = time.monotonic()
            status, headers, said = self.ask(path, method, body)
            kind = "text/html" if path.startswith("/ui") else "application/problem+json"
            assert (status, headers.get("retry-after")) == (503, "1"), (door, status, said)
            assert headers["content-type"].startswith(kind), door
            assert b"nothing is lost" in said
            assert b"127.0.0.1" not in said, "where the store is, is no caller's business"
            return time.monotonic() - began

        with ThreadPoolExecutor(len(_DOORS)) as callers:
            return max(callers.map(knock, _DOORS))

    def backends(self) -> list[tuple[int, str, str]]:
        """The memory's: process, state, and what it waits for."""
        return [
            (int(str(pid)), str(state), str(waits))
            for pid, state, waits in self.server.execute(
                f"""SELECT pid, state, wait_event_type FROM pg_stat_activity
                WHERE usename = '{SERVICE}'"""
            )
        ]

    def blocked(self) -> list[int]:
        """The memory's backends that wait for a lock."""
        return [pid for pid, _, waits in self.backends() if waits == "Lock"]

    @contextmanager
    def locking(self, mode: str) -> Iterator[psycopg.Connection[Any]]:
        """A session of somebody else's who holds the turns."""
        with psycopg.connect(self.server.url("postgres")) as other:
            table = sql.Identifier(self.schema, "turns")
            other.execute(sql.SQL("LOCK TABLE {} IN " + mode + " MODE").format(table))
            yield other

    def close(self) -> None:
        self._pool.close()


@contextmanager
def opened_house(
    server: PostgresServer, options: PostgresOptions, directory: Path, *, owner: str = ""
) -> Iterator[House]:
    """A memory, and a worker whose stream a broker keeps in `directory`."""
    with ExitStack() as opened:
        broker = NatsBroker(directory).start()
        opened.callback(broker.kill)
        worker = PublishingWorker(NatsPublisherTransport(broker.url, StreamId("w1")), "w1")
        opened.callback(worker.publisher.close, "test is over")
        memory = LineProcess(PROGRAM, json.dumps(_given(options)))
        opened.callback(memory.end)
        memory.tell(worker.joined.descriptor.to_json())
        house = House(server, options, memory, worker, owner=owner)
        opened.callback(house.close)
        house.talk()
        house.is_whole()
        yield house


def _given(options: PostgresOptions) -> dict[str, object]:
    """The memory's options."""
    return {
        "archive": options.url,
        "archive_schema": options.schema,
        "archive_connections": MAX_CONNECTIONS,
        "archive_connect_timeout_s": CONNECT_S,
        "archive_statement_timeout_s": STATEMENT_S,
        "archive_lock_timeout_s": LOCK_S,
        "archive_lease_s": LEASE_S,
        "settle_s": 60,
    }


@contextmanager
def doomed(house: House, table: str, *, at_commit: bool) -> Iterator[None]:
    """Whoever writes to a table loses its connection, in the statement or at the commit."""
    place = sql.Identifier(house.schema, table).as_string(None)
    kind = (
        f"CONSTRAINT TRIGGER doom AFTER INSERT OR UPDATE ON {place} DEFERRABLE INITIALLY DEFERRED"
        if at_commit
        else f"TRIGGER doom BEFORE INSERT OR UPDATE OR DELETE ON {place}"
    )
    house.server.execute(
        """CREATE OR REPLACE FUNCTION public.doom() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"""
    )
    house.server.execute(f"CREATE {kind} FOR EACH ROW EXECUTE FUNCTION public.doom()")
    yield
    house.server.execute(f"DROP TRIGGER doom ON {place}")
