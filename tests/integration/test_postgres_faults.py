"""PostgreSQL is killed, frozen, full, locked and crowded under a memory that follows a stream.

One real server, one real broker and one memory in a process of its own stay for
all of it.  After each fault the memory must hold what a consumer that saw
everything would have made of it: every turn once, told of once.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from memory_oracle import eventually
from open_directory import open_directory
from postgres_house import (
    CONNECT_S,
    MARGIN_S,
    MAX_CONNECTIONS,
    STATEMENT_S,
    House,
    doomed,
    opened_house,
)
from postgres_server import OWNER, SERVICE, PostgresServer, why_not

DOWN_S = float(os.environ.get("SHEPHERD_TEST_POSTGRES_DOWN_S", "0.7"))
Record = Callable[[str, object], None]


@contextmanager
def mounted() -> Iterator[Path | None]:
    """A disk of sixteen megabytes; None where nothing can be mounted."""
    with open_directory() as disk:
        command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield disk
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """There is no room on it in this block."""
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path | None]:
    """For the tables."""
    with mounted() as disk:
        yield disk


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
    with opened_house(server, server.fresh(), tmp_path_factory.mktemp("broker")) as house:
        yield house


def test_a_server_that_is_killed_while_streams_are_followed_costs_nothing(
    house: House, record_property: Record
) -> None:
    house.talk()
    house.server.kill()
    house.talk()
    told = house.waits_for("refused", "closed the connection", "terminating")
    slowest_s = house.refuses_everybody()
    time.sleep(DOWN_S)
    house.waits_for("refused")
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
    with house.locking("ACCESS EXCLUSIVE"), ThreadPoolExecutor(5) as callers:
        house.talk()
        asked: list[Future[tuple[int, dict[str, str], bytes]]] = []
        most = 0

        def is_used_up() -> bool:
            nonlocal most
            if all(each.done() for each in asked):
                asked.extend(callers.submit(house.ask, "/v1/search?query=much") for _ in range(5))
            most = max(most, len(house.blocked()))
            return most >= MAX_CONNECTIONS - 1

        eventually(is_used_up, lambda: most)
        answers = {(each.result()[0], each.result()[1].get("retry-after")) for each in asked}
        told = house.waits_for("lock timeout", "in use")
    record_property("locked", {"waiting_at_once": most, "told": told})
    house.is_whole()

    assert answers == {(503, "1")}
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

    def is_told() -> bool:
        house.talk(4)
        return "No space left on device" in house.reason()

    with filled(small_disk):
        eventually(is_told, house.health)
        told = house.reason()
        found = house.ask("/v1/search?query=session1")[0]
        large = {"value": os.urandom(30_000).hex()}
        stored, headers, _ = house.ask("/v1/facts/large", "PUT", large)
    record_property("full", told)
    house.is_whole()

    assert found == 200
    assert (stored, headers["retry-after"]) == (503, "1")


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


def test_a_log_that_has_no_room_ends_the_server_and_costs_nothing(
    tmp_path: Path, record_property: Record
) -> None:
    """PostgreSQL ends itself rather than promise what it cannot write down."""
    settings = ("min_wal_size=2MB", "wal_recycle=off", "restart_after_crash=off")
    with ExitStack() as opened:
        disk = opened.enter_context(mounted())
        if disk is None:
            pytest.skip("nothing can be mounted here: no disk that could be filled")
        log = disk / "log"
        log.mkdir()
        server = PostgresServer(log_at=log).start(*settings)
        opened.callback(server.remove)
        server.make_roles()
        house = opened.enter_context(opened_house(server, server.fresh(), tmp_path))

        def has_ended() -> bool:
            house.talk()
            with suppress(psycopg.Error):
                server.execute("SELECT pg_switch_wal()")
            return server.count_log("No space left on device") > 0 and not server.is_running

        with filled(disk):
            eventually(has_ended, house.health)
            told = house.waits_for("refused", "closed the connection", "terminating")
            slowest_s = house.refuses_everybody()
        server.start(*settings)
        house.is_whole()
    record_property("log full", {"told": told, "refused_within_s": slowest_s})


@pytest.mark.parametrize(
    ("away", "back", "told"),
    [
        (
            f"REVOKE ALL ON {{}} FROM {SERVICE}",
            f"GRANT ALL ON {{}} TO {SERVICE}",
            "permission denied",
        ),
        ("ALTER TABLE {} RENAME TO elsewhere", "ALTER TABLE {}.elsewhere RENAME TO turns", "exist"),
        ("ALTER TABLE {} RENAME digest TO d", "ALTER TABLE {} RENAME d TO digest", "exist"),
    ],
    ids=["privilege", "table", "column"],
)
def test_what_an_operator_has_taken_away_is_waited_for(
    house: House, away: str, back: str, told: str, record_property: Record
) -> None:
    schema = sql.Identifier(house.schema).as_string(None)
    house.server.execute(away.format(f"{schema}.turns"))
    try:
        house.talk()
        reason = house.waits_for(told)
        status, headers, _ = house.ask("/v1/search?query=much")
    finally:
        place = schema if "elsewhere" in back else f"{schema}.turns"
        house.server.execute(back.format(place))
    record_property("taken away", reason)
    house.is_whole()

    assert (status, headers.get("retry-after")) == (503, "1")
