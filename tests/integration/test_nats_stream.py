"""The stream over a real NATS broker that is killed, restarted, guarded and contended for."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nkeys
import pytest

from nats_broker import NatsBroker
from shepherd_events.errors import TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import ResetReason, StreamState, subscribe
from shepherd_events.transports.credentials import NatsCredentials
from shepherd_events.transports.nats_connection import check_server
from shepherd_events.transports.nats_log import Retention
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from shepherd_events.transports.nats_subscriber import NatsSubscriberTransport
from stream_readers import INFO, STREAM, Reader, removed, stored, turn, wait_until

HEARTBEAT_S = 0.1


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsBroker]:
    broker = NatsBroker(tmp_path).start()
    yield broker
    broker.kill()


def publisher_at(broker: NatsBroker, *, epoch: int = 1000, **transport: object) -> KvEventPublisher:
    wire = NatsPublisherTransport(broker.url, STREAM, **transport)  # type: ignore[arg-type] # options as they are
    return KvEventPublisher(STREAM, INFO, wire, clock=lambda: epoch, heartbeat_s=HEARTBEAT_S)


def kept(publisher: KvEventPublisher) -> int:
    """Frames that the broker has acknowledged."""
    transport = publisher._transport
    assert isinstance(transport, NatsPublisherTransport)
    return publisher.counters.frames - transport.backlog.frames


async def test_a_reader_follows_live_and_knows_what_is_resident(broker: NatsBroker) -> None:
    publisher = publisher_at(broker)
    publisher.start()
    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(1)
        for number in range(2, 40):
            publisher.publish([stored(number)])
        publisher.publish([removed(5)])
        await asyncio.to_thread(wait_until, lambda: kept(publisher) == publisher.counters.frames)
        await reader.read_up_to(publisher.head_seq)

        assert reader.residents.digest() == publisher._residents.digest()
        assert subscription.state is StreamState.LIVE
    publisher.close("done")


async def test_what_a_dead_publisher_said_can_still_be_read(broker: NatsBroker) -> None:
    publisher = publisher_at(broker)
    publisher.start()
    for number in range(300):
        publisher.publish_turn(turn(number))
    publisher.close("gone")

    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: len(reader.frames) == 302)
        assert reader.numbers == list(range(1, 303))
        assert subscription.state is StreamState.STALE

    after = Position(publisher.epoch, 250)
    async with subscribe(publisher.address, after=after) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: len(reader.frames) == 52)
        assert reader.numbers == list(range(251, 303))


async def test_no_frame_is_lost_when_the_broker_is_killed_under_load(broker: NatsBroker) -> None:
    publisher = publisher_at(broker)
    publisher.start()

    def load() -> None:
        for number in range(600):
            publisher.publish_turn(turn(number))
            if number % 200 == 100:
                wait_until(lambda: kept(publisher) > 1)
                broker.kill()
                broker.start()

    await asyncio.to_thread(load)
    await asyncio.to_thread(wait_until, lambda: kept(publisher) == 601)
    publisher.close("done")

    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: len(reader.frames) == 602)
        assert reader.numbers == list(range(1, 603))


async def test_a_reader_outlives_the_broker_and_catches_up(broker: NatsBroker) -> None:
    publisher = publisher_at(broker)
    publisher.start()
    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(1)
        broker.kill()
        for number in range(50):
            publisher.publish_turn(turn(number))
        broker.start()

        await reader.read_up_to(51)
        assert reader.numbers == list(range(1, 52))
    publisher.close("done")


async def test_an_older_publisher_of_the_same_stream_is_stopped(broker: NatsBroker) -> None:
    zombie, heir = publisher_at(broker, epoch=1000), publisher_at(broker, epoch=2000)
    zombie.start()
    zombie.publish_turn(turn(1))
    await asyncio.to_thread(wait_until, lambda: kept(zombie) == 2)
    heir.start()
    await asyncio.to_thread(wait_until, lambda: kept(heir) == 1)

    def stopped() -> bool:
        zombie.publish_turn(turn(2))
        return zombie.counters.send_failures > 0

    await asyncio.to_thread(wait_until, stopped)
    heir.publish_turn(turn(3))
    heir.close("done")
    zombie.close("stopped")

    address = StreamAddress(STREAM, 1000, "nats", heir.address.live, heir.address.control)
    async with subscribe(address, after=Position(1000, 0)) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: bool(reader.frames) and reader.frames[-1].epoch == 2000)
        await reader.read_until(lambda: reader.numbers[-1] == 3)
        assert {frame.epoch for frame in reader.frames} == {2000}


async def test_a_reader_that_was_away_hears_what_an_epoch_said_last_before_the_next(
    broker: NatsBroker,
) -> None:
    first = publisher_at(broker, epoch=1000)
    first.start()
    for number in range(300):
        first.publish_turn(turn(number))
    await asyncio.to_thread(wait_until, lambda: kept(first) == first.counters.frames)
    first._transport.close()  # as if killed: no goodbye
    heir = publisher_at(broker, epoch=2000)
    heir.start()
    heir.publish_turn(turn(1000))
    await asyncio.to_thread(wait_until, lambda: kept(heir) == 2)

    async with subscribe(heir.address, after=Position(1000, 250)) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: bool(reader.frames) and reader.frames[-1].epoch == 2000)
        await reader.read_until(lambda: reader.numbers[-1] == 2)
        heard = [(frame.epoch, frame.seq) for frame in reader.frames]

    assert heard == [(1000, seq) for seq in range(251, 302)] + [(2000, 1), (2000, 2)]
    heir.close("done")


async def test_row_3_the_log_keeps_epochs_growing_when_the_clock_was_set_back(
    broker: NatsBroker,
) -> None:
    first = publisher_at(broker, epoch=2000)
    first.start()
    first.publish_turn(turn(1))
    first.close("gone")
    second = publisher_at(broker, epoch=1000)
    second.start()
    second.publish_turn(turn(2))

    assert second.epoch == 2001
    async with subscribe(first.address) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: bool(reader.frames) and reader.frames[-1].epoch == 2001)
        await reader.read_up_to(2)
    second.close("done")
    assert second.counters.send_failures == 0


async def test_frames_beyond_the_window_are_counted_and_replayed(broker: NatsBroker) -> None:
    publisher = publisher_at(broker, window_bytes=2000)
    publisher.start()
    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(1)
        broker.kill()
        for number in range(100):
            publisher.publish_turn(turn(number))
        await asyncio.to_thread(wait_until, lambda: publisher.counters.frames == 101)
        assert publisher.counters.send_failures > 50
        broker.start()

        await reader.read_up_to(101)
        assert reader.numbers == list(range(1, 102))
    publisher.close("done")


async def test_row_12_what_the_log_let_go_is_found_missing_and_healed_by_a_snapshot(
    broker: NatsBroker,
) -> None:
    wire = NatsPublisherTransport(broker.url, STREAM, retention=Retention(max_bytes=3000))
    publisher = KvEventPublisher(
        STREAM, INFO, wire, clock=lambda: 1000, ring_bytes=1000, heartbeat_s=HEARTBEAT_S
    )
    publisher.start()
    for number in range(1, 101):
        publisher.publish([stored(number)])
        publisher.publish_turn(turn(number))
    await asyncio.to_thread(wait_until, lambda: kept(publisher) == 201)
    async with subscribe(publisher.address) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(201)

        assert [reset.reason for reset in reader.resets] == [ResetReason.COMPACTED]
        assert reader.residents.hashes() == set(range(1, 101))
    publisher.close("done")

    after = Position(publisher.epoch, 3)
    async with subscribe(publisher.address, after=after) as subscription:
        reading = asyncio.ensure_future(anext(subscription))
        await asyncio.to_thread(wait_until, lambda: subscription.counters.failed_requests > 0)

        assert subscription.state is StreamState.STALE, "frame 4 is gone, and who could tell too"
        assert not reading.done()
        reading.cancel()


def test_row_12_a_broker_without_room_for_the_log_is_told_of(tmp_path: Path) -> None:
    broker = NatsBroker(tmp_path, max_file="10MB").start()
    publisher = publisher_at(broker)
    with pytest.raises(TransportError, match="insufficient storage"):
        publisher.start()
    broker.kill()


def test_a_broker_that_is_not_there_is_named(broker: NatsBroker) -> None:
    broker.kill()
    publisher = publisher_at(broker)
    with pytest.raises(TransportError, match=f"cannot publish through {broker.url}"):
        publisher.start()
    broker.start()


@pytest.mark.parametrize(
    "credentials",
    [NatsCredentials(), NatsCredentials(tls=True), NatsCredentials(nkey_seed_file="seed")],
)
def test_a_broker_elsewhere_is_not_used_in_clear_or_without_a_name(
    credentials: NatsCredentials,
) -> None:
    with pytest.raises(TransportError, match="without TLS and an NKEY"):
        check_server("nats://10.1.2.3:4222", credentials)


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "nats://", "127.0.0.1:4222"])
def test_what_is_no_broker_is_refused(server: str) -> None:
    with pytest.raises(TransportError, match="is no broker"):
        check_server(server, NatsCredentials())


class Guarded:
    """A broker that wants TLS, and lets a writer write and a reader read one stream's subjects."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        writer, reader = self._user("writer"), self._user("reader")
        self._certificates()
        self.broker = NatsBroker(
            directory,
            f"""
            tls {{ cert_file: "{directory}/server.pem", key_file: "{directory}/server.key" }}
            authorization {{ users: [
              {{ nkey: {writer}, permissions: {{
                  publish: ["kv.v1.>", "kv.heartbeat.>", "$JS.API.STREAM.>", "_INBOX.>"],
                  subscribe: ["kv.control.>", "_INBOX.>"] }} }}
              {{ nkey: {reader}, permissions: {{
                  publish: ["kv.control.>", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>"],
                  subscribe: ["kv.v1.>", "kv.heartbeat.>", "_INBOX.>"] }} }}
            ] }}
            """,
        )

    def credentials(self, name: str) -> NatsCredentials:
        return NatsCredentials(f"{self.directory}/ca.pem", f"{self.directory}/{name}.seed", True)

    def _user(self, name: str) -> str:
        seed = nkeys.encode_seed(name.encode().ljust(32, b"."), nkeys.PREFIX_BYTE_USER)
        (self.directory / f"{name}.seed").write_bytes(seed)
        return str(nkeys.from_seed(seed).public_key.decode())

    def _certificates(self) -> None:
        run = partial(subprocess.run, cwd=self.directory, check=True, capture_output=True)
        key = ["-newkey", "ed25519", "-nodes"]
        run(
            [
                "openssl",
                "req",
                "-x509",
                *key,
                "-subj",
                "/CN=ca",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
            ]
        )
        run(
            [
                "openssl",
                "req",
                *key,
                "-subj",
                "/CN=localhost",
                "-keyout",
                "server.key",
                "-out",
                "csr",
            ]
        )
        (self.directory / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext"]
        run(["openssl", "x509", "-req", "-in", "csr", *signing, "-out", "server.pem"])


async def test_over_tls_each_key_may_do_its_own_part_only(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    broker = guarded.broker.start()
    as_writer, as_reader = guarded.credentials("writer"), guarded.credentials("reader")
    publisher = publisher_at(broker, credentials=as_writer)
    publisher.start()
    publisher.publish_turn(turn(1))

    with pytest.raises(TransportError, match="cannot publish through"):
        publisher_at(broker, credentials=as_reader).start()
    with pytest.raises(TransportError, match="cannot publish through"):
        publisher_at(broker).start()
    async with subscribe(
        publisher.address, connect=lambda address: NatsSubscriberTransport(address, as_reader)
    ) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(2)
        publisher.close("done")
        await reader.read_until(lambda: len(reader.frames) == 3)
    broker.kill()
