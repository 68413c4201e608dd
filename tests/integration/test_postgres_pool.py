"""What a pool of connections says when it can give none, and what a server's errors are taken for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from postgres_server import SERVICE, PostgresServer
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.errors import StoreUnavailableError


@contextmanager
def raising(postgres: PostgresServer, state: str) -> Iterator[Callable[[], None]]:
    options = PostgresOptions(url=postgres.url(SERVICE))
    with closing(PostgresPool(options)) as pool:

        def fail() -> None:
            with pool.transaction() as connection:
                connection.execute(
                    f"DO $$ BEGIN RAISE EXCEPTION 'told so' USING ERRCODE = '{state}'; END $$"
                )

        yield fail


def test_a_pool_whose_connections_are_in_use_says_so_and_keeps_the_way_open(
    postgres: PostgresServer,
) -> None:
    options = PostgresOptions(
        url=postgres.url(SERVICE),
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


def test_however_many_ask_a_server_that_is_away_few_connections_are_tried(
    record_property: Callable[[str, object], None],
) -> None:
    asked, until = [0] * 8, time.monotonic() + 1.0
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(9) as threads:
        tried = threads.submit(count_connections, server)
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/nothing"
        pool = PostgresPool(PostgresOptions(url=url, connect_timeout_s=0.25))

        def ask(caller: int) -> None:
            while time.monotonic() < until:
                asked[caller] += 1
                with suppress(StoreUnavailableError), pool.transaction():
                    pytest.fail("there was a connection")
                time.sleep(0.005)

        list(threads.map(ask, range(8)))
        pool.close()
        server.shutdown(socket.SHUT_RDWR)
    record_property("away", {"asked": sum(asked), "tried": tried.result()})

    assert sum(asked) > 100, "nobody waits long, but for one"
    assert 2 <= tried.result() <= 20


def count_connections(server: socket.socket) -> int:
    """How many come until the socket is shut; each is closed at once."""
    number = 0
    with suppress(OSError):
        while True:
            server.accept()[0].close()
            number += 1
    return number


def test_what_is_sent_and_not_acknowledged_is_given_up_by_the_kernel(
    postgres: PostgresServer,
) -> None:
    options = PostgresOptions(url=postgres.url(SERVICE), connect_timeout_s=2.5)
    with (
        closing(PostgresPool(options)) as pool,
        pool.transaction() as connection,
        socket.socket(fileno=os.dup(connection.fileno())) as link,
    ):
        assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2500


@pytest.mark.parametrize(
    "state",
    [
        *("40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P03", "58030", "25006"),
        *("42501", "42P01", "42703", "42704", "42883", "3F000", "3D000", "28000"),
    ],
)
def test_what_goes_away_by_itself_or_by_the_operators_hand_is_told_as_such(
    postgres: PostgresServer, state: str
) -> None:
    with raising(postgres, state) as fail, pytest.raises(StoreUnavailableError, match="told so"):
        fail()


@pytest.mark.parametrize("state", ["22003", "23505", "42601", "54000", "XX001"])
def test_what_no_patience_mends_is_told_as_it_is(postgres: PostgresServer, state: str) -> None:
    with raising(postgres, state) as fail, pytest.raises(psycopg.Error) as told:
        fail()

    assert told.value.sqlstate == state


def test_a_number_from_another_server_neither_reads_nor_writes(postgres: PostgresServer) -> None:
    """Whatever connection it is: behind a pooler one may lead to another server each time."""
    with closing(PostgresPool(postgres.fresh())) as pool:
        mine = PostgresArchives(pool).of("t").speaker
        assert mine.server is not None
        stale = replace(mine, server=mine.server - timedelta(microseconds=1))
        fact = (
            "INSERT INTO facts (tenant, key, folded, value, set_unix_ns) VALUES (%s, %s, %s, %s, 1)"
        )

        with pytest.raises(StoreUnavailableError, match="replaced"), pool.transaction(stale):
            pytest.fail("it could be read")
        for opened in (pool.transaction, pool.pipelined):
            with pytest.raises(StoreUnavailableError, match="replaced"), opened() as connection:
                pool.speak_for(connection, stale)
                connection.execute(fact, (mine.number, "k", "k", "v"))
        with pool.transaction(mine) as connection:
            assert connection.execute("SELECT 1 FROM facts").fetchall() == []
