"""Who may read a stream beyond loopback: fault row 15, on real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from curve_keys import CurveKeys
from shepherd_config import OptionError
from shepherd_events.errors import CredentialsError, ListenerRefusedError, TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import StreamState, subscribe
from shepherd_events.transports import connect
from shepherd_events.transports.credentials import CurveCredentials, ReaderCredentials
from shepherd_events.transports.zmq import ZmqPublisherTransport, ZmqSubscriberTransport
from shepherd_memory import config as memory_config
from shepherd_worker import config as worker_config
from shepherd_worker.errors import UnusableInputError
from stream_readers import INFO, STREAM, Reader, stored, wait_until
from stream_source import PATIENCE


@pytest.fixture
def keys(tmp_path: Path) -> CurveKeys:
    return CurveKeys(tmp_path)


@pytest.fixture
def publisher(keys: CurveKeys) -> Iterator[KvEventPublisher]:
    transport = ZmqPublisherTransport(curve=keys.publisher)
    publisher = KvEventPublisher(STREAM, INFO, transport, heartbeat_s=0.02)
    publisher.start()
    publisher.publish([stored(1, 2, 3)])
    yield publisher
    publisher.close("done")


async def test_row_15_an_allowed_reader_follows_over_encrypted_sockets(
    publisher: KvEventPublisher, keys: CurveKeys
) -> None:
    with_keys = partial(connect, credentials=ReaderCredentials(curve=keys.reader()))
    async with subscribe(publisher.address, connect=with_keys) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(2)

        assert reader.residents.hashes() == {1, 2, 3}
    assert publisher.counters.refused_readers == 0


@pytest.mark.parametrize("who", ["a stranger", "one that believes another publisher", "no key"])
async def test_row_15_nothing_is_delivered_without_the_right_keys(
    publisher: KvEventPublisher, keys: CurveKeys, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys.make("stranger")
    keys.make("impostor")
    shown = {
        "a stranger": keys.reader("stranger"),
        "one that believes another publisher": keys.reader(publisher="impostor"),
        "no key": None,
    }[who]
    with_keys = partial(connect, credentials=ReaderCredentials(curve=shown))
    with caplog.at_level(logging.WARNING, "shepherd_events"):
        async with subscribe(
            publisher.address, connect=with_keys, patience=PATIENCE
        ) as subscription:
            reader = asyncio.ensure_future(anext(subscription))
            await asyncio.to_thread(wait_until, lambda: publisher.counters.refused_readers > 2)
            await asyncio.to_thread(wait_until, lambda: subscription.counters.failed_requests > 0)

            assert not reader.done()
            assert subscription.state is StreamState.STALE
            reader.cancel()
    told = [record for record in caplog.records if record.name.endswith("zmq_curve")]
    assert 1 <= len(told) <= 2, "each of the two reasons is told of once"
    assert publisher.counters.replays == 0


async def test_a_reader_that_is_allowed_later_gets_in_without_a_restart(
    publisher: KvEventPublisher, keys: CurveKeys
) -> None:
    keys.allow("latecomer")
    with_keys = partial(connect, credentials=ReaderCredentials(curve=keys.reader("latecomer")))
    async with subscribe(publisher.address, connect=with_keys) as subscription:
        reader = Reader(subscription)
        await reader.read_up_to(2)

        assert reader.residents.hashes() == {1, 2, 3}


async def test_a_key_that_is_half_written_shuts_nobody_out_and_is_told_of_once(
    publisher: KvEventPublisher, keys: CurveKeys, caplog: pytest.LogCaptureFixture
) -> None:
    (keys.readers / "half.key").write_text("")
    for _ in range(2):
        with_keys = partial(connect, credentials=ReaderCredentials(curve=keys.reader()))
        async with subscribe(publisher.address, connect=with_keys) as subscription:
            await Reader(subscription).read_up_to(2)

    told = [record.getMessage() for record in caplog.records]
    assert len([each for each in told if "the readers of before stay allowed" in each]) == 1


@pytest.mark.parametrize("host", ["10.1.2.3", "0.0.0.0", "*", "some-host"])
def test_an_address_beyond_loopback_is_refused_without_keys(host: str) -> None:
    with pytest.raises(ListenerRefusedError, match="or CURVE keys"):
        ZmqPublisherTransport(host)


def test_with_keys_every_address_is_still_refused_because_nobody_connects_to_it(
    keys: CurveKeys,
) -> None:
    with pytest.raises(ListenerRefusedError, match="by which readers can connect"):
        ZmqPublisherTransport("0.0.0.0", curve=keys.publisher)
    ZmqPublisherTransport("10.1.2.3", curve=keys.publisher)


def test_what_comes_from_elsewhere_in_clear_is_not_believed() -> None:
    address = StreamAddress(STREAM, 1, "zmq", "tcp://10.1.2.3:5557", "tcp://10.1.2.3:5558")
    with pytest.raises(TransportError, match="without CURVE keys"):
        ZmqSubscriberTransport(address)


def test_keys_that_others_may_read_or_that_are_none_are_refused(keys: CurveKeys) -> None:
    secret = Path(keys.publisher.key_file)
    secret.chmod(0o640)
    with pytest.raises(CredentialsError, match="has mode 640, others may use it: chmod 600"):
        ZmqPublisherTransport(curve=keys.publisher)
    secret.chmod(0o600)
    secret.write_text("nothing")
    with pytest.raises(CredentialsError, match="is no CURVE key"):
        ZmqPublisherTransport(curve=keys.publisher)
    empty = keys.directory / "empty"
    empty.mkdir()
    with pytest.raises(CredentialsError, match="holds no public key"):
        ZmqPublisherTransport(curve=CurveCredentials(keys.reader().key_file, str(empty)))


REMOTE = ["--model", "m", "--kv-events-endpoint", "tcp://10.1.2.3:5557"]


def test_the_worker_wants_keys_for_an_address_beyond_loopback(keys: CurveKeys) -> None:
    with pytest.raises(OptionError, match="or --kv-events-curve-file"):
        worker_config.load_config(REMOTE, {})
    own = ["--kv-events-curve-file", keys.publisher.key_file]
    with pytest.raises(OptionError, match="--kv-events-curve-readers and it"):
        worker_config.load_config([*REMOTE, *own], {})
    readers = ["--kv-events-curve-readers", str(keys.readers)]
    config = worker_config.load_config([*REMOTE, *own, *readers], {}).config
    assert config.curve_credentials == keys.publisher
    Path(keys.publisher.key_file).chmod(0o644)
    with pytest.raises(UnusableInputError, match="has mode 644"):
        worker_config.load_config([*REMOTE, *own, *readers], {})


def test_the_memory_service_shows_the_keys_that_it_is_given(keys: CurveKeys) -> None:
    own = ["--kv-events-curve-file", keys.reader().key_file]
    with pytest.raises(OptionError, match="--kv-events-curve-server and it"):
        memory_config.load_config(own, {})
    server = ["--kv-events-curve-server", str(keys.directory / "publisher.key")]
    nats = ["--kv-events-tls", "--kv-events-nkey-file", "seed", "--kv-events-ca-file", "ca.pem"]
    credentials = memory_config.load_config([*own, *server, *nats], {}).config.credentials
    assert credentials.curve == keys.reader()
    assert credentials.nats.tls
    assert (credentials.nats.nkey_seed_file, credentials.nats.ca_file) == ("seed", "ca.pem")
