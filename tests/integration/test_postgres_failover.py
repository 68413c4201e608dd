"""PostgreSQL fails over to a standby that lacks what was committed last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql

from memory_oracle import eventually
from postgres_house import House, opened_house
from postgres_server import OWNER, SERVICE, PostgresServer, why_not
from shepherd_events.events import Notice
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_lease import PostgresLease
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.errors import LeaseLostError, StoreUnavailableError

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    server = PostgresServer().start()
    server.make_roles()
    yield server
    server.remove()


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    server = PostgresServer(copied=primary).start()
    yield server
    server.remove()


def either(one: PostgresServer, other: PostgresServer, role: str) -> str:
    """The URL of whichever of two servers takes writes, as libpq finds it out."""
    hosts = f"127.0.0.1:{one.port},127.0.0.1:{other.port}"
    return f"postgresql://{role}@{hosts}/postgres?target_session_attrs=read-write"


@pytest.fixture
def options(primary: PostgresServer, standby: PostgresServer) -> PostgresOptions:
    return replace(primary.fresh(), url=either(primary, standby, SERVICE))


@pytest.fixture
def pool(options: PostgresOptions) -> Iterator[PostgresPool]:
    with closing(PostgresPool(options)) as pool:
        yield pool


@pytest.fixture
def house(
    primary: PostgresServer, standby: PostgresServer, options: PostgresOptions, tmp_path: Path
) -> Iterator[House]:
    owner = either(primary, standby, OWNER)
    with opened_house(primary, options, tmp_path, owner=owner) as house:
        yield house


def count(server: PostgresServer, options: PostgresOptions | House, table: str) -> int:
    rows = sql.Identifier(options.schema, table).as_string(None)
    return int(str(server.execute(f"SELECT count(*) FROM {rows}")[0][0]))


def part(primary: PostgresServer, standby: PostgresServer) -> None:
    """The standby takes what there is, and nothing more."""
    (now,) = primary.execute("SELECT pg_current_wal_insert_lsn()")[0]

    def has_taken() -> bool:
        return standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{now}'") == [(True,)]

    eventually(has_taken, lambda: now)
    standby.stop_following()


def fail_over(primary: PostgresServer, standby: PostgresServer) -> None:
    primary.kill()
    standby.promote()


def test_what_a_standby_lacks_is_read_from_the_streams_again(
    house: House,
    primary: PostgresServer,
    standby: PostgresServer,
    record_property: Callable[[str, object], None],
) -> None:
    part(primary, standby)
    house.talk(3)
    house.is_whole()
    kept, left = (count(server, house, "turns") for server in (primary, standby))
    fail_over(primary, standby)
    house.talk()
    house.is_whole()
    record_property("failed over", {"turns": kept, "of which the standby had": left})

    assert left <= kept - 3


def test_a_tenant_that_a_standby_lacks_is_not_mixed_with_who_gets_its_number(
    primary: PostgresServer,
    standby: PostgresServer,
    options: PostgresOptions,
    pool: PostgresPool,
) -> None:
    """Fifty of them: a sequence gives up to 32 numbers more than the standby has heard of."""
    archives = PostgresArchives(pool)
    archives.of("old")
    part(primary, standby)
    lost = [archives.of(f"lost{number}") for number in range(50)]
    fail_over(primary, standby)
    with closing(PostgresPool(options)) as another:
        strangers = PostgresArchives(another)
        new = [strangers.of(f"new{number}") for number in range(50)]
        eventually(lambda: bool(archives.tenants()), lambda: "no server")

        shared = {each.speaker.number for each in new} & {each.speaker.number for each in lost}
        assert shared, "some numbers were given away twice"
        for archive in lost:
            with pytest.raises(StoreUnavailableError, match="replaced"):
                archive.facts(after="", limit=9)
            with pytest.raises(StoreUnavailableError, match="replaced"), archive.writing() as old:
                old.set_fact("whose", archive.tenant, 1)
            with pytest.raises(StoreUnavailableError, match="replaced"):
                archive.erase_all(1)
        for archive in lost:
            with archives.of(archive.tenant).writing() as writer:
                writer.set_fact("whose", archive.tenant, 1)
        assert [each.facts(after="", limit=9) for each in new] == [[]] * 50
        numbers = {archives.of(archive.tenant).speaker.number for archive in lost}
        assert not numbers & {each.speaker.number for each in new}


def test_numbers_that_readers_have_seen_are_not_given_to_something_else(
    primary: PostgresServer, standby: PostgresServer, pool: PostgresPool
) -> None:
    archives = PostgresArchives(pool)

    def tell(name: str) -> None:
        notice = Notice(name, "t", "session", (1,), (name,), "topic", "text", 1)
        with archives.of("t").writing() as writer:
            writer.add_notice(notice)

    def seen(after: int) -> list[tuple[int, str]]:
        notices = archives.of("t").notices(session=None, state=None, after=after, limit=9)
        return [(each.position, each.notice.notice_id) for each in notices]

    tell("first")
    part(primary, standby)
    for name in ("second", "third"):
        tell(name)
    archives.of("t").erase_session("nobody", 1)
    assert seen(0) == [(1, "first"), (2, "second"), (3, "third")]
    generation = archives.of("t").generation()
    fail_over(primary, standby)
    eventually(lambda: bool(archives.tenants()), lambda: "no server")
    tell("fourth")

    assert [name for _, name in seen(0)] == ["first", "fourth"]
    assert [name for _, name in seen(3)] == ["fourth"]
    assert archives.of("t").generation() > generation, "searchers begin again"


def test_a_lease_is_good_for_the_server_that_gave_it_alone(
    primary: PostgresServer, standby: PostgresServer, pool: PostgresPool
) -> None:
    lease = PostgresLease(pool, holder="one", ttl_s=60)
    archives = PostgresArchives(pool, fence=lease.fence)
    assert lease.acquire()
    with archives.batch() as writer:
        writer("t").set_fact("colour", "blue", 1)
    part(primary, standby)
    fail_over(primary, standby)
    eventually(lambda: archives.tenants() == ["t"], lambda: "no server")

    with pytest.raises(LeaseLostError, match="replaced"), archives.batch() as writer:
        writer("t").set_fact("colour", "red", 2)
    assert not lease.renew()
    lease.release()
    assert lease.acquire(), "the row was still its own"
    with archives.batch() as writer:
        writer("t").set_fact("colour", "red", 2)
