"""PostgreSQL is killed, frozen, full, locked and crowded under a memory that follows a stream.

One real server, one real broker and one memory in a process of its own stay for
all of it.  After each fault the memory must hold what a consumer that saw
everything would have made of it: every turn once, told of once.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from psycopg import sql

from line_process import LineProcess
from memory_oracle import eventually, kept, talk, truth
from nats_broker import NatsBroker
from postgres_server import OWNER, SERVICE, PostgresServer, why_not
from publishing_worker import PublishingWorker
from shepherd_events.events import StreamId
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.errors import StoreUnavailableError

PROGRAM = str(Path(__file__).parents[1] / "replica_process.py")
DOWN_S = float(os.environ.get("SHEPHERD_TEST_POSTGRES_DOWN_S", "0.7"))
CONNECT_S, STATEMENT_S, LOCK_S, LEASE_S = 0.5, 0.8, 0.4, 0.6
MAX_CONNECTIONS = 3
MARGIN_S = 10.0
"""Of a machine that does other things as well."""
TOOL = {"arguments": {"query": "much"}}
DOORS: list[tuple[str, str, object]] = [
    ("GET", "/v1/search?query=much", None),
    ("GET", "/v1/context?query=much", None),
    ("GET", "/v1/sessions", None),
    ("GET", "/v1/notices", None),
    ("GET", "/v1/facts/colour", None),
    ("POST", "/v1/tools/search_memory", TOOL),
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
    ) -> None:
        self.server = server
        self.schema = options.schema
        self._pool = PostgresPool(replace(options, url=server.url(OWNER)))
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

        with ThreadPoolExecutor(len(DOORS)) as callers:
            return max(callers.map(knock, DOORS))

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


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A disk of sixteen megabytes for the tables; None where nothing can be mounted."""
    disk = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    for parent in disk.parents[:3]:
        parent.chmod(0o755)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def server(small_disk: Path | None) -> Iterator[PostgresServer]:
    if reason := why_not():
        pytest.skip(reason)
    server = PostgresServer().start("max_connections=20")
    server.make_roles()
    if small_disk is not None:
        tables = small_disk / "tables"
        tables.mkdir()
        server.own(tables)
        server.execute(f"CREATE TABLESPACE small LOCATION '{tables}'")
        server.execute(f"GRANT CREATE ON TABLESPACE small TO {OWNER}")
        server.execute(f"ALTER ROLE {OWNER} SET default_tablespace = small")
    yield server
    server.remove()


@pytest.fixture(scope="module")
def house(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    broker = NatsBroker(tmp_path_factory.mktemp("broker")).start()
    worker = PublishingWorker(NatsPublisherTransport(broker.url, StreamId("w1")), "w1")
    options = server.fresh()
    given = {
        "archive": options.url,
        "archive_schema": options.schema,
        "archive_connections": MAX_CONNECTIONS,
        "archive_connect_timeout_s": CONNECT_S,
        "archive_statement_timeout_s": STATEMENT_S,
        "archive_lock_timeout_s": LOCK_S,
        "archive_lease_s": LEASE_S,
        "settle_s": 60,
    }
    memory = LineProcess(PROGRAM, json.dumps(given))
    memory.tell(worker.joined.descriptor.to_json())
    house = House(server, options, memory, worker)
    house.talk()
    house.is_whole()
    yield house
    house.close()
    memory.end()
    worker.publisher.close("test is over")
    broker.kill()


Record = Callable[[str, object], None]


def test_a_server_that_is_killed_while_streams_are_followed_costs_nothing(
    house: House, record_property: Record
) -> None:
    house.talk()
    house.server.kill()
    house.talk()
    told = house.waits_for("refused", "closed the connection", "terminating")
    slowest_s = house.refuses_everybody()
    time.sleep(DOWN_S)
    assert "refused" in house.reason()
    assert house.metric("shepherd_memory_store_up") == 0
    house.talk()
    began = time.monotonic()
    house.server.start("max_connections=20")
    house.is_whole()
    record_property("killed", {"down_s": DOWN_S, "told": told, "refused_within_s": slowest_s})
    record_property("whole_again_after_s", round(time.monotonic() - began, 2))

    assert slowest_s < CONNECT_S + STATEMENT_S + MARGIN_S
    assert house.ask("/v1/search?query=much")[0] == 200


def test_a_server_that_is_frozen_is_given_up_in_time_and_found_again(
    house: House, record_property: Record
) -> None:
    house.talk()
    house.server.freeze()
    try:
        eventually(lambda: house.server.is_frozen, lambda: "it runs")
        house.talk()
        first_s = house.refuses_everybody()
        told = house.waits_for("no answer", "timeout")
        second_s = house.refuses_everybody()
    finally:
        house.server.thaw()
    record_property("frozen", {"told": told, "refused_within_s": [first_s, second_s]})
    house.is_whole()

    assert first_s < CONNECT_S + STATEMENT_S + CONNECT_S + MARGIN_S
    assert second_s < CONNECT_S + MARGIN_S


def test_a_deadlock_that_the_memory_is_the_victim_of_is_tried_again(
    house: House, record_property: Record
) -> None:
    def num_deadlocks() -> int:
        found = house.server.execute(
            "SELECT sum(deadlocks)::int FROM pg_stat_database WHERE datname = 'postgres'"
        )
        return int(str(found[0][0]))

    def deadlock() -> None:
        with house.locking("SHARE") as other:
            other.execute("SET LOCAL deadlock_timeout = '1h'")
            house.talk()
            eventually(lambda: bool(house.blocked()), house.backends)
            tenants = sql.Identifier(house.schema, "tenants")
            other.execute(sql.SQL("SELECT 1 FROM {} FOR UPDATE").format(tenants))

    before = num_deadlocks()
    failures = house.metric("shepherd_memory_store_failures_total")

    def has_happened() -> bool:
        """A victim that looked too early gives up by its lock's time instead: then again."""
        deadlock()
        return num_deadlocks() > before

    eventually(has_happened, num_deadlocks)
    record_property("deadlocks", num_deadlocks() - before)
    house.is_whole()

    assert house.metric("shepherd_memory_store_failures_total") > failures


def test_tables_that_are_locked_and_a_pool_that_is_used_up_are_waited_for(
    house: House, record_property: Record
) -> None:
    with house.locking("ACCESS EXCLUSIVE"), ThreadPoolExecutor(8) as callers:
        house.talk()
        asked = [callers.submit(house.ask, "/v1/search?query=much") for _ in range(8)]
        most = 0

        def is_used_up() -> bool:
            nonlocal most
            most = max(most, len(house.blocked()))
            return most >= MAX_CONNECTIONS - 1

        eventually(is_used_up, lambda: most)
        answers = [(each.result()[0], each.result()[1].get("retry-after")) for each in asked]
        told = house.waits_for("lock timeout", "in use")
    record_property("locked", {"waiting_at_once": most, "told": told})
    house.is_whole()

    assert answers == [(503, "1")] * 8
    assert len(house.backends()) <= MAX_CONNECTIONS, "no connection is left behind"


def test_a_server_without_a_free_connection_is_waited_for(
    house: House, record_property: Record
) -> None:
    taken: list[psycopg.Connection[Any]] = []

    def take_all() -> None:
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(house.server.url("postgres")))

    take_all()
    try:
        (first, *_) = taken
        first.autocommit = True
        deadline = time.monotonic() + MARGIN_S
        others = "FROM pg_stat_activity WHERE usename LIKE 'shepherd%'"
        while first.execute(f"SELECT pg_terminate_backend(pid) {others}").fetchall():
            assert time.monotonic() < deadline
            take_all()
        house.talk()
        told = house.waits_for("too many clients", "reserved")
        slowest_s = house.refuses_everybody()
    finally:
        for each in taken:
            each.close()
    record_property("crowded", {"taken": len(taken), "told": told, "refused_within_s": slowest_s})
    house.is_whole()

    assert slowest_s < CONNECT_S + MARGIN_S


def test_a_disk_that_is_full_stops_writers_and_not_readers(
    house: House, small_disk: Path | None, record_property: Record
) -> None:
    if small_disk is None:
        pytest.skip("nothing can be mounted here: no disk that could be filled")
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    try:
        house.talk(8)
        told = house.waits_for("No space left on device")
        found = house.ask("/v1/search?query=session1")[0]
        large = {"value": os.urandom(30_000).hex()}
        stored, headers, _ = house.ask("/v1/facts/large", "PUT", large)
    finally:
        ballast.unlink()
    record_property("full", told)
    house.is_whole()

    assert found == 200
    assert (stored, headers["retry-after"]) == (503, "1")


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


@pytest.mark.parametrize(
    ("table", "at_commit"),
    [("turns", False), ("notices", False), ("holders", False), ("turns", True), ("streams", True)],
)
def test_a_connection_that_is_ended_in_mid_transaction_has_left_nothing_of_it(
    house: House, table: str, *, at_commit: bool, record_property: Record
) -> None:
    ended = house.server.count_log("terminating connection due to administrator command")
    with doomed(house, table, at_commit=at_commit):
        house.talk()
        told = house.waits_for("terminating connection", "closed the connection")
    record_property(f"ended in {table}", told)
    house.is_whole()

    assert house.server.count_log("terminating connection due to administrator command") > ended


def test_a_pool_whose_connections_are_in_use_says_so_and_keeps_the_way_open(
    house: House,
) -> None:
    options = PostgresOptions(
        url=house.server.url(SERVICE),
        schema=house.schema,
        max_connections=1,
        connect_timeout_s=0.1,
    )
    with closing(PostgresPool(options)) as pool:
        with (
            pool.transaction(),
            pytest.raises(StoreUnavailableError, match="all 1 connections are in use"),
            pool.transaction(),
        ):
            pytest.fail("there was a second connection")
        with pool.transaction() as connection:
            assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


@pytest.mark.parametrize(
    "state",
    ["40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P03", "58030", "25006"],
)
def test_what_goes_away_by_itself_is_told_as_such(house: House, state: str) -> None:
    with raising(house, state) as fail, pytest.raises(StoreUnavailableError, match="told so"):
        fail()


@pytest.mark.parametrize("state", ["22003", "23505", "42501", "42P01", "XX001"])
def test_what_no_patience_mends_is_told_as_it_is(house: House, state: str) -> None:
    with raising(house, state) as fail, pytest.raises(psycopg.Error) as told:
        fail()

    assert told.value.sqlstate == state


@contextmanager
def raising(house: House, state: str) -> Iterator[Callable[[], None]]:
    options = PostgresOptions(url=house.server.url(SERVICE), schema=house.schema)
    with closing(PostgresPool(options)) as pool:

        def fail() -> None:
            with pool.transaction() as connection:
                connection.execute(
                    f"DO $$ BEGIN RAISE EXCEPTION 'told so' USING ERRCODE = '{state}'; END $$"
                )

        yield fail
