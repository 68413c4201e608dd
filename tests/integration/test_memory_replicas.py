"""Two memory services on one PostgreSQL: one follows the streams, and the other when it is killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from line_process import LineProcess
from memory_oracle import eventually, kept, talk, truth
from nats_broker import NatsBroker
from postgres_server import PostgresServer
from publishing_worker import PublishingWorker
from shepherd_events.events import StreamId
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from shepherd_memory.archive.postgres import PostgresArchives
from shepherd_memory.archive.postgres_index import PostgresIndex
from shepherd_memory.archive.postgres_lease import PostgresLease
from shepherd_memory.archive.postgres_pool import PostgresOptions, PostgresPool
from shepherd_memory.block_index import BlockIndex
from shepherd_memory.errors import LeaseLostError

PROGRAM = str(Path(__file__).parents[1] / "replica_process.py")


@pytest.fixture
def options(postgres: PostgresServer) -> PostgresOptions:
    return postgres.fresh()


@pytest.fixture
def pool(options: PostgresOptions) -> Iterator[PostgresPool]:
    pool = PostgresPool(options)
    yield pool
    pool.close()


@pytest.fixture
def replicas(options: PostgresOptions) -> Iterator[Callable[[], LineProcess]]:
    started: list[LineProcess] = []

    def start() -> LineProcess:
        given = {
            "archive": options.url,
            "archive_schema": options.schema,
            "archive_lease_s": 0.9,
            "settle_s": 60,
        }
        started.append(LineProcess(PROGRAM, json.dumps(given)))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[PublishingWorker]:
    broker = NatsBroker(tmp_path).start()
    worker = PublishingWorker(NatsPublisherTransport(broker.url, StreamId("w1")), "w1")
    yield worker
    worker.publisher.close("test is over")
    broker.kill()


def follows(replica: LineProcess) -> bool:
    """Whatever else it says: until it has caught up its health is 503."""
    try:
        answer = urlopen(f"{replica.started['url']}/health")
    except HTTPError as refusal:
        answer = refusal
    with answer:
        return bool(json.load(answer)["follows_streams"])


def found(replica: LineProcess, query: str) -> list[str]:
    with urlopen(f"{replica.started['url']}/v1/search?query={query}&k=1") as answer:
        return [hit["messages"][0]["content"] for hit in json.load(answer)["hits"]]


def test_what_a_killed_replica_followed_another_goes_on_with_and_nothing_is_lost_or_twice(
    worker: PublishingWorker, replicas: Callable[[], LineProcess], pool: PostgresPool
) -> None:
    archives = PostgresArchives(pool)
    first = replicas()
    eventually(lambda: follows(first), lambda: "nobody follows")
    second = replicas()
    for replica in (first, second):
        replica.tell(worker.joined.descriptor.to_json())
    for number in range(8):
        talk(worker, f"early{number}")
    eventually(lambda: bool(kept(archives)["told"]), lambda: kept(archives))

    first.process.kill()
    for number in range(8):
        talk(worker, f"late{number}")

    expected = truth(worker)
    eventually(lambda: follows(second), lambda: "nobody took over")
    eventually(lambda: kept(archives) == expected, lambda: (kept(archives), expected))
    assert len(expected["told"]) == 16
    assert found(second, "much+late7") == ["What of late7?"]


def test_a_replica_that_stands_by_answers_and_says_so(
    worker: PublishingWorker, replicas: Callable[[], LineProcess]
) -> None:
    first = replicas()
    eventually(lambda: follows(first), lambda: "nobody follows")
    second = replicas()
    first.tell(worker.joined.descriptor.to_json())
    talk(worker, "whales")

    eventually(lambda: found(second, "much") == ["What of whales?"], lambda: "not found")
    assert follows(first)
    assert not follows(second)


def test_a_lease_is_one_replicas_until_it_is_released_or_runs_out(pool: PostgresPool) -> None:
    one, other = (PostgresLease(pool, holder=name, ttl_s=0.3) for name in ("one", "other"))

    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    assert not one.renew()
    eventually(one.acquire, lambda: "it should have run out")
    assert not other.renew()


def test_whoever_lost_its_lease_commits_nothing(pool: PostgresPool) -> None:
    paused, other = (PostgresLease(pool, holder=name, ttl_s=60) for name in ("one", "other"))
    archives = PostgresArchives(pool, fence=paused.fence)
    assert paused.acquire()
    with archives.batch() as writer:
        writer("t").set_fact("colour", "blue", 1)
    paused.release()
    assert other.acquire()

    with pytest.raises(LeaseLostError, match="another replica"), archives.batch() as writer:
        writer("t").set_fact("colour", "red", 2)
    with pytest.raises(LeaseLostError):
        PostgresIndex(pool, paused.fence).save(BlockIndex(), {}, set())

    fact = archives.of("t").fact("colour")
    assert fact is not None
    assert fact.value == "blue"


def test_nobody_takes_over_in_the_middle_of_a_transaction(postgres: PostgresServer) -> None:
    pool = PostgresPool(postgres.fresh())
    one, other = (PostgresLease(pool, holder=name, ttl_s=0.01) for name in ("one", "other"))
    assert one.acquire()
    time.sleep(0.05)

    with pool.transaction() as connection:
        one.fence(connection)
        assert one.renew(), "keeping it does not wait for its own transaction"
        time.sleep(0.05)
        rows = connection.execute(
            "SELECT 1 FROM leases WHERE expires <= clock_timestamp()"
        ).fetchall()
        assert rows, "it has run out"
        with pool.transaction() as rival, pytest.raises(Exception, match="lock timeout"):
            rival.execute("SET LOCAL lock_timeout = 50")
            rival.execute("UPDATE leases SET token = token + 1")

    assert other.acquire()
    pool.close()
