"""What PostgreSQL adds to the contract: strangers see nothing, and servers that die lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import psycopg
import pytest
from psycopg import sql

from archive_samples import a_notice, a_turn, keep
from postgres_server import OWNER, SERVICE, PostgresServer, why_not
from shepherd_memory.archive.fake import FakeArchives
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_migrations import prepare
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.archive.postgres_schema import MIGRATIONS, STREAM_TABLES, TENANT_TABLES
from shepherd_memory.archive.protocol import Archives, ArchiveWriter
from shepherd_memory.archive.records import DeadLetter, Quota, StoredTurn, StoredVectors
from shepherd_memory.errors import ArchiveAccessError, SchemaVersionError, StoreUnavailableError
from shepherd_memory.search import Question, Searcher, search

HOSTILE = ["'; DROP TABLE turns; --", '" OR 1=1', "%s %(tenant)s {}", "\\'", "$1", "a\x00b"]


@pytest.fixture
def options(postgres: PostgresServer) -> PostgresOptions:
    return postgres.fresh()


@pytest.fixture
def pool(options: PostgresOptions) -> Iterator[PostgresPool]:
    pool = PostgresPool(options)
    yield pool
    pool.close()


@pytest.fixture
def archives(pool: PostgresPool) -> PostgresArchives:
    return PostgresArchives(pool)


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server of one's own, to kill; whoever does starts it again."""
    if reason := why_not():
        pytest.skip(reason)
    server = PostgresServer().start()
    server.make_roles()
    yield server
    server.remove()


def fill(archives: Archives, tenant: str) -> None:
    """A row in every table of a tenant."""
    keep(archives, a_turn(1, "whale", tenant=tenant), tenant=tenant, archived=True)
    archive = archives.of(tenant)
    with archive.writing() as writer:
        writer.add_notice(a_notice("n"))
        writer.set_fact("colour", "blue", 1)
        writer.put_dead_letter(DeadLetter("l", "s", "why", b"what", 1))
        writer.advance("w", a_turn(1).placement.position)
        writer.put_vectors("m", [StoredVectors(1, bytes(8))])
    archive.erase_turn("nothing", 1)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_query_without_a_tenant_sees_nothing_and_one_with_a_tenant_its_own(
    pool: PostgresPool, archives: PostgresArchives, table: str
) -> None:
    fill(archives, "t")
    fill(archives, "u")
    everything = sql.SQL("SELECT tenant FROM {}").format(sql.Identifier(table))

    with pool.transaction() as connection:
        assert connection.execute(everything).fetchall() == []
    speaker = archives.of("t").speaker
    with pool.transaction(speaker) as connection:
        rows = connection.execute(everything).fetchall()
    assert {row["tenant"] for row in rows} == {speaker.number}


def test_nobody_writes_for_another_tenant(pool: PostgresPool, archives: PostgresArchives) -> None:
    mine, theirs = archives.of("t").speaker, archives.of("u").speaker

    with (
        pytest.raises(StoreUnavailableError, match="violates row-level security"),
        pool.transaction(mine) as connection,
    ):
        connection.execute(
            "INSERT INTO facts (tenant, key, folded, value, set_unix_ns) VALUES (%s, %s, %s, %s, 1)",
            (theirs.number, "k", "k", "v"),
        )
    with pool.transaction(mine) as connection:
        changed = connection.execute("UPDATE tenants SET generation = 9 WHERE name = %s", ("u",))
        assert changed.rowcount == 0


@pytest.mark.parametrize("table", [*TENANT_TABLES, *STREAM_TABLES])
def test_the_owner_is_bound_by_the_policies_as_well(
    postgres: PostgresServer, options: PostgresOptions, archives: PostgresArchives, table: str
) -> None:
    fill(archives, "t")

    with psycopg.connect(postgres.url(OWNER)) as connection:
        count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(options.schema, table))
        assert connection.execute(count).fetchone() == (0,)


def tables_of(postgres: PostgresServer, options: PostgresOptions) -> list[str]:
    """Every table and partition of a schema, those that hold no rows of tenants left out."""
    found = postgres.execute(
        f"""SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{options.schema}')"""
    )
    open_to_all = {"schema_version", "leases", "tenants"}
    return sorted({str(name) for (name,) in found} - open_to_all)


def test_a_connection_that_forgets_its_tenant_or_names_another_sees_and_changes_nothing(
    postgres: PostgresServer, options: PostgresOptions, archives: PostgresArchives
) -> None:
    fill(archives, "t")
    other = archives.of("u").speaker.number
    tables = tables_of(postgres, options)

    assert {*TENANT_TABLES, *STREAM_TABLES} < set(tables), "partitions are there as well"
    for said in (None, "", str(other)):
        with psycopg.connect(options.url, autocommit=True) as connection:
            if said is not None:
                connection.execute("SELECT set_config('shepherd.tenant', %s, false)", (said,))
            for table in tables:
                name = sql.Identifier(options.schema, table)
                for statement in ("SELECT * FROM {}", "DELETE FROM {}"):
                    done = connection.execute(sql.SQL(statement).format(name))
                    assert (table, done.rowcount) == (table, 0)
    assert archives.of("t").stats().archived_turns == 1


def test_every_table_is_closed_to_its_owner_and_the_services_role_owns_none(
    postgres: PostgresServer, options: PostgresOptions
) -> None:
    found = postgres.execute(
        f"""SELECT relname, relrowsecurity AND relforcerowsecurity, pg_get_userbyid(relowner)
        FROM pg_class WHERE relkind IN ('r', 'p')
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{options.schema}')"""
    )
    roles = postgres.execute(
        f"SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = '{SERVICE}'"
    )

    assert {owner for _, _, owner in found} == {OWNER}
    assert {name for name, is_closed, _ in found if not is_closed} == {"schema_version", "leases"}
    assert roles == [(False, False, False)]


def test_a_store_of_version_1_is_divided_and_nothing_of_it_is_lost(
    postgres: PostgresServer, options: PostgresOptions
) -> None:
    old = replace(options, schema=f"{options.schema}old")
    owner = replace(old, url=postgres.url(OWNER))
    prepare(old, owner, MIGRATIONS[:1])
    pool = PostgresPool(old)
    archives = PostgresArchives(pool)
    for tenant in "tu":
        keep(archives, a_turn(1, "whale", tenant=tenant), tenant=tenant, archived=True)
        keep(archives, *(a_turn(each, tenant=tenant) for each in (2, 3)), tenant=tenant)
    fill(archives, "v")

    def told() -> list[object]:
        return [
            [
                list(archive.live_turns()),
                archive.turns("s", after=0, limit=9),
                list(archive.documents(after=0)),
                archive.frequencies(["whale"]),
                list(archive.vectors("m", after=0)),
                archive.notices(session=None, state=None, after=0, limit=9),
                archive.stats(),
            ]
            for archive in map(archives.of, "tuv")
        ]

    before = told()
    prepare(old, owner)

    assert told() == before
    keep(archives, a_turn(4, "whale"), archived=True)
    assert [turn.ordinal for turn in archives.of("t").live_turns()] == [2, 3]
    assert [hit.turn.ordinal for hit in search(archives.of("t"), "whale", 5)] == [4, 1]
    pool.close()


def test_a_role_that_passes_by_the_policies_is_refused(postgres: PostgresServer) -> None:
    options = replace(postgres.fresh(), url=postgres.url("postgres"))

    with pytest.raises(ArchiveAccessError, match="'postgres' passes by row-level security"):
        prepare(options)


def test_a_role_that_may_make_no_schema_is_told_of_the_owner(postgres: PostgresServer) -> None:
    options = replace(postgres.fresh(), schema="not_there")

    with pytest.raises(ArchiveAccessError, match="--archive-owner-url-file"):
        prepare(options)


def test_a_schema_of_a_later_program_is_refused(
    postgres: PostgresServer, options: PostgresOptions
) -> None:
    prepare(options)
    name = sql.Identifier(options.schema, "schema_version").as_string(None)
    postgres.execute(f"UPDATE {name} SET version = {len(MIGRATIONS) + 1}")

    with pytest.raises(SchemaVersionError, match="schema version"):
        prepare(options, replace(options, url=postgres.url(OWNER)))


def test_many_replicas_may_start_at_once(
    postgres: PostgresServer, options: PostgresOptions
) -> None:
    fresh = replace(options, schema=f"{options.schema}2")
    owner = replace(fresh, url=postgres.url(OWNER))

    with ThreadPoolExecutor(4) as starting:
        list(starting.map(lambda _: prepare(fresh, owner), range(4)))

    pool = PostgresPool(fresh)
    keep(PostgresArchives(pool), a_turn(1))
    pool.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_and_no_word_is_a_statement(archives: PostgresArchives, text: str) -> None:
    turn = a_turn(1, f"whale {text}", session=text, tenant=text)
    keep(archives, turn, tenant=text, archived=True)
    archive = archives.of(text)
    with archive.writing() as writer:
        writer.set_fact(text, text, 1)
        writer.put_dead_letter(DeadLetter(text, text, text, b"", 1))

    assert [each.session for each in archive.sessions(after="", limit=9)] == [text]
    assert [hit.turn.question for hit in search(archive, f"whale {text}", 5)] == [turn.question]
    assert [fact.value for fact in archive.facts(after="", limit=9)] == [text]
    assert archive.erase_session(text, 9).turns == 1
    assert archives.tenants() == [text]


def test_it_finds_what_sqlite_finds_in_the_same_order(
    archives: PostgresArchives, tmp_path: Path
) -> None:
    random, others = Random(7), SqliteArchives(tmp_path)
    words = [
        f"{stem}{number}" for stem in ("whale", "ship", "storm", "rope") for number in range(20)
    ]
    turns = [
        a_turn(
            1 + number % 10,
            " ".join(random.choices(words, k=random.randint(3, 20))),
            " ".join(random.choices(words, k=random.randint(3, 30))),
            session=f"s{number // 10}",
            started=number,
        )
        for number in range(300)
    ]
    for store in (archives, others):
        keep(store, *turns, archived=True)
    searcher, other = Searcher(), Searcher()

    for _ in range(40):
        question = Question(" ".join(random.choices(words, k=3)), k=10)
        ours, theirs = (
            [(hit.turn.archive_id, hit.score) for hit in each.search(store.of("t"), question)]
            for each, store in ((searcher, archives), (other, others))
        )
        assert ours == theirs
        assert len(ours) == 10
    others.close()


def test_a_transaction_of_many_writes_leaves_what_the_one_in_memory_is_left_with(
    archives: PostgresArchives,
) -> None:
    chance, fake = Random(11), FakeArchives()
    turns = [
        a_turn(1 + number % 4, f"whale {number}", session=f"s{number % 3}") for number in range(24)
    ]

    def write(writer: ArchiveWriter, seed: int) -> list[object]:
        chance, answers = Random(seed), list[object]()
        for step in range(12):
            turn = chance.choice(turns)
            acts: list[Callable[[], object]] = [
                lambda turn=turn: writer.insert(turn),
                lambda turn=turn, step=step: writer.archive(turn.archive_id, step),
                lambda turn=turn: writer.supersede(turn.archive_id),
                lambda turn=turn: writer.newest(turn.session),
                lambda turn=turn: writer.add_notice(a_notice(turn.digest)),
                lambda turn=turn: writer.acknowledge(turn.digest),
                lambda turn=turn, step=step: writer.recalled([turn.archive_id], step),
                lambda turn=turn: writer.store_memory(turn.question, "!", 7),
                lambda turn=turn: writer.clear_memory(turn.question),
                lambda turn=turn: writer.put_vectors("m", [StoredVectors(1, bytes(4))] * 2),
                lambda turn=turn: writer.session_turns(turn.session),
            ]
            answers.append(chance.choices(acts, weights=[6, 4, 2, 1, 2, 1, 1, 1, 1, 1, 1])[0]())
        return answers

    for seed in range(40):
        if seed % 8 == 7:
            doomed = chance.choice(turns).archive_id
            for store in (archives, fake):
                store.of("t").erase_turn(doomed, 9)
        with archives.of("t").writing() as ours, fake.of("t").writing() as theirs:
            assert write(ours, seed) == write(theirs, seed)

        told = [
            (
                [store.of("t").turns(f"s{each}", after=0, limit=9) for each in range(3)],
                store.of("t").memories(after="", limit=9),
                [
                    (row.notice, row.state)
                    for row in store.of("t").notices(session=None, state=None, after=0, limit=99)
                ],
                [row[1:] for row in store.of("t").documents(after=0)],
                store.of("t").frequencies(["whale"]),
            )
            for store in (archives, fake)
        ]
        assert told[0] == told[1]


def test_documents_become_visible_in_their_order_however_many_write(
    archives: PostgresArchives, options: PostgresOptions
) -> None:
    archive, seen, done = archives.of("t"), list[int](), threading.Event()

    def watch() -> None:
        last = 0
        while not done.is_set() or list(archive.documents(after=last)):
            for document in archive.documents(after=last):
                seen.append(document.doc)
                last = document.doc

    def write(writer: int) -> None:
        for number in range(20):
            keep(archives, a_turn(number + 1, session=f"s{writer}"), archived=True)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    done.set()
    watching.join()

    assert seen == list(range(1, 81))


def test_the_same_turn_from_two_replicas_is_kept_once(archives: PostgresArchives) -> None:
    turn = a_turn(1, "whale")

    with ThreadPoolExecutor(4) as replicas:
        list(replicas.map(lambda _: keep(archives, turn, archived=True), range(12)))

    assert archives.of("t").stats().archived_turns == 1
    assert archives.of("t").frequencies(["whale"]) == {"whale": 1}


def test_a_statement_that_fails_unseen_undoes_its_transaction(archives: PostgresArchives) -> None:
    with pytest.raises(psycopg.errors.NumericValueOutOfRange), archives.batch() as writer:
        writer("t").set_fact("k", "v", 1)
        writer("t").put_dead_letter(DeadLetter("l", "s", "why", b"what", 2**70))
        writer("t").insert(a_turn(1))

    assert archives.of("t").facts(after="", limit=9) == []
    keep(archives, a_turn(2))
    assert archives.of("t").stats().live_turns == 1


def test_two_that_wait_for_each_others_tenants_are_parted(archives: PostgresArchives) -> None:
    both = threading.Barrier(2)

    def write(tenants: tuple[str, str]) -> str:
        try:
            with archives.batch() as writer:
                writer(tenants[0]).set_fact("k", tenants[0], 1)
                both.wait(10)
                writer(tenants[1]).set_fact("k", tenants[0], 1)
        except StoreUnavailableError as error:
            return error.reason
        return "committed"

    archives.of("t"), archives.of("u")
    with ThreadPoolExecutor(2) as writers:
        outcome = list(writers.map(write, [("t", "u"), ("u", "t")]))

    assert sorted(outcome) == ["committed", "deadlock detected"]


def test_a_batch_is_of_all_its_tenants_or_of_none(archives: PostgresArchives) -> None:
    with pytest.raises(ZeroDivisionError), archives.batch() as writer:
        writer("t").set_fact("k", "v", 1)
        writer("u").set_fact("k", "v", 1)
        raise ZeroDivisionError

    assert [archives.of(tenant).facts(after="", limit=9) for tenant in "tu"] == [[], []]


def test_what_was_erased_is_in_no_table_and_a_vacuum_takes_it_from_the_pages(
    postgres: PostgresServer, options: PostgresOptions, archives: PostgresArchives
) -> None:
    secret = a_turn(1, "xylophone")
    keep(archives, secret, archived=True)
    with archives.of("t").writing() as writer:
        writer.add_notice(a_notice("n", archive_ids=(secret.archive_id,)))
    archives.of("t").erase_session("s", 9)

    for table in ("turns", "postings", "notices"):
        name = sql.Identifier(options.schema, table).as_string(None)
        assert postgres.execute(f"SELECT count(*) FROM {name}") == [(0,)]
        postgres.execute(f"VACUUM {name}")
    table = sql.Identifier(options.schema, "turns").as_string(None)
    ((size,),) = postgres.execute(
        f"SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree('{table}')"
    )
    assert size == 0, "no page is left"


def test_a_server_killed_in_a_transaction_has_nothing_of_it_and_is_found_again(
    mortal: PostgresServer,
) -> None:
    pool = PostgresPool(mortal.fresh())
    archives = PostgresArchives(pool)
    keep(archives, a_turn(1))

    def write_and_die() -> None:
        with archives.of("t").writing() as writer:
            writer.insert(a_turn(2))
            mortal.kill()
            writer.insert(a_turn(3))

    with pytest.raises(StoreUnavailableError, match=r"postgresql 127\.0\.0\.1/postgres"):
        write_and_die()
    with pytest.raises(StoreUnavailableError):
        archives.of("t").stats()
    mortal.start()
    with pytest.raises(StoreUnavailableError, match="started anew"):
        archives.of("t").stats()

    assert [turn.ordinal for turn in archives.of("t").turns("s", after=0, limit=9)] == [1]
    keep(archives, a_turn(2))
    assert archives.of("t").stats().live_turns == 2
    pool.close()


def test_a_read_only_server_and_one_without_connections_are_waited_for(
    mortal: PostgresServer,
) -> None:
    options = mortal.fresh()
    pool = PostgresPool(options)
    archives = PostgresArchives(pool)
    keep(archives, a_turn(1))

    mortal.execute("ALTER ROLE shepherd_service SET default_transaction_read_only = on")
    mortal.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'shepherd%'"
    )
    with pytest.raises(StoreUnavailableError, match="read-only"):
        keep(archives, a_turn(2))
    assert archives.of("t").stats().live_turns == 1
    mortal.execute("ALTER ROLE shepherd_service RESET default_transaction_read_only")
    mortal.execute("ALTER ROLE shepherd_service CONNECTION LIMIT 0")
    mortal.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'shepherd%'"
    )
    with pytest.raises(StoreUnavailableError, match="too many connections for role"):
        keep(archives, a_turn(2))
    mortal.execute("ALTER ROLE shepherd_service CONNECTION LIMIT -1")

    keep(archives, a_turn(2))
    assert archives.of("t").stats().live_turns == 2
    pool.close()


def test_a_writer_that_is_held_up_says_so_in_time(
    options: PostgresOptions, archives: PostgresArchives
) -> None:
    hasty = PostgresPool(replace(options, lock_timeout_s=0.1))
    with (
        archives.of("t").writing() as writer,
        pytest.raises(StoreUnavailableError, match="lock timeout"),
    ):
        writer.set_fact("k", "v", 1)
        with PostgresArchives(hasty).of("t").writing():
            pass
    hasty.close()


def test_pruning_counts_bytes_as_they_are_stored(archives: PostgresArchives) -> None:
    turns: list[StoredTurn] = [a_turn(number, "x" * 100) for number in range(1, 5)]
    for turn in turns:
        with archives.of("t").writing() as writer:
            writer.insert(turn)
            writer.archive(turn.archive_id, turn.ordinal)

    assert archives.of("t").prune(Quota(max_bytes=350), 9).turns == 2
