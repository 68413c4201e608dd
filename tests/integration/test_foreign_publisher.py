"""Our stream in vLLM's form, over real sockets."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import msgspec
import pytest
import zmq

from shepherd_events.errors import TransportError
from shepherd_events.events import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheContext,
    Tier,
)
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_publisher import END_OF_REPLAY, MsgpackPublisher
from stream_readers import removed, stored, turn, wait_until

ANYWHERE = MsgpackEndpoint.parse("vllm://127.0.0.1:0?replay=0&topic=kv")


@contextmanager
def published(**options: Any) -> Iterator[MsgpackPublisher]:
    publisher = MsgpackPublisher(ANYWHERE, dp_rank=2, clock=lambda: 1.5, **options)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.close()
        publisher.close()


@contextmanager
def socket(kind: int, endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as made:
        made.linger = 0
        made.rcvtimeo = 5000
        made.connect(endpoint)
        yield made


def replayed(asked: zmq.Socket[bytes], first: int) -> list[tuple[int, Any]]:
    """What a reader gets that asks as vLLM's example does, with a DEALER instead of its REQ."""
    asked.send_multipart((b"", first.to_bytes(8, "big")))
    messages = []
    while (parts := asked.recv_multipart())[2] != END_OF_REPLAY:
        empty, topic, seq, payload = parts
        assert (empty, topic) == (b"", b"kv")
        messages.append((int.from_bytes(seq, "big"), msgspec.msgpack.decode(payload)))
    assert parts == [b"", b"", END_OF_REPLAY, b""]
    return messages


def kinds(batch: Any) -> list[tuple[str, list[int] | None]]:
    return [(event["type"], event.get("block_hashes")) for event in batch[1]]


def test_a_message_has_a_topic_a_number_and_a_batch() -> None:
    with published() as publisher, socket(zmq.SUB, publisher.live) as live:
        live.subscribe(b"kv")
        seqs, batches = [], []
        for name in count(1):
            if len(batches) == 3:
                break
            publisher.publish([stored(name)])
            if live.poll(20):
                topic, seq, payload = live.recv_multipart()
                assert topic == b"kv"
                seqs.append(int.from_bytes(seq, "big"))
                batches.append(msgspec.msgpack.decode(payload))

        assert seqs == list(range(seqs[0], seqs[0] + 3))
        assert [(batch[0], batch[2]) for batch in batches] == [(1.5, 2)] * 3


def test_a_replay_brings_what_is_kept_from_a_number_on_and_then_its_end() -> None:
    with published() as publisher, socket(zmq.DEALER, publisher.replay) as asked:
        for number in (1, 2, 3):
            publisher.publish([stored(number)])
            wait_until(lambda: publisher.counters.messages == number)  # noqa: B023 - waited for here

        assert [seq for seq, _ in replayed(asked, 0)] == [0, 1, 2]
        assert [(seq, kinds(batch)) for seq, batch in replayed(asked, 2)] == [
            (2, [("BlockStored", [3])])
        ]
        assert replayed(asked, 3) == []
        assert publisher.counters.replays == 3


def test_a_reader_of_ten_thousand_messages_that_pauses_gets_them_all() -> None:
    with published() as publisher, socket(zmq.DEALER, publisher.replay) as asked:
        for number in range(1, 10_001):
            publisher.publish([stored(number)])
            if number % 200 == 0:
                wait_until(lambda: not publisher._queue)
        wait_until(lambda: publisher.counters.events == 10_000)
        asked.send_multipart((b"", bytes(8)))
        wait_until(lambda: publisher.counters.replays == 1)

        seqs = []
        while (parts := asked.recv_multipart())[2] != END_OF_REPLAY:
            seqs.append(int.from_bytes(parts[2], "big"))
        assert seqs == list(range(publisher.counters.messages))
        assert publisher.counters.unfinished_replays == 0


def test_readers_are_told_anew_what_there_is_when_the_queue_was_full() -> None:
    publisher = MsgpackPublisher(ANYWHERE, max_queued_events=3)
    publisher.publish([stored(1), stored(2), removed(1)])
    publisher.publish([stored(3)])
    publisher.publish([removed(2)])
    publisher.start()
    with socket(zmq.DEALER, publisher.replay) as asked:
        wait_until(lambda: publisher.counters.messages == 1)
        ((_, batch),) = replayed(asked, 0)

    assert kinds(batch) == [("AllBlocksCleared", None), ("BlockStored", [3])]
    assert publisher.counters.dropped_events == 5
    publisher.close()


def test_a_cleared_tier_is_told_as_the_removal_of_its_blocks() -> None:
    with published() as publisher, socket(zmq.DEALER, publisher.replay) as asked:
        publisher.publish([stored(1), stored(2, tier=Tier.HOST), BlocksCleared(Tier.HOST)])
        publisher.publish_turn(turn(1))
        publisher.publish([BlocksCleared()])
        wait_until(lambda: publisher.counters.events == 4)
        told = [each for _, batch in replayed(asked, 0) for each in kinds(batch)]

    assert told == [
        ("BlockStored", [1]),
        ("BlockStored", [2]),
        ("BlockRemoved", [2]),
        ("AllBlocksCleared", None),
    ]


def test_no_block_is_told_twice_since_readers_count() -> None:
    with published() as publisher, socket(zmq.DEALER, publisher.replay) as asked:
        publisher.publish([stored(1, 2), stored(1, 2, 3), removed(2, 2, 9), stored(2)])
        publisher.publish([BlocksCleared(), stored(1)])
        wait_until(lambda: publisher.counters.events == 6)
        told = [each for _, batch in replayed(asked, 0) for each in kinds(batch)]

    assert told == [
        ("BlockStored", [1, 2]),
        ("BlockStored", [3]),
        ("BlockRemoved", [2]),
        ("BlockStored", [2]),
        ("AllBlocksCleared", None),
        ("BlockStored", [1]),
    ]


def test_blocks_whose_salt_is_not_known_are_withheld_and_so_is_their_removal() -> None:
    salted = replace(stored(1), context=CacheContext(cache_salt_id=b"12345678"))
    with published() as publisher, socket(zmq.DEALER, publisher.replay) as asked:
        publisher.publish([salted, removed(1), stored(2)])
        wait_until(lambda: publisher.counters.events == 1)

        assert [kinds(batch) for _, batch in replayed(asked, 0)] == [[("BlockStored", [2])]]
        assert publisher.counters.withheld_events == 1


def test_requests_that_are_none_do_not_disturb() -> None:
    with published() as publisher, socket(zmq.DEALER, publisher.replay) as asked:
        publisher.publish([stored(1)])
        wait_until(lambda: publisher.counters.messages == 1)
        asked.send_multipart((b"", b"short"))
        asked.send(b"nothing like it")

        assert len(replayed(asked, 0)) == 1


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with published() as publisher:
        port = publisher.live.rpartition(":")[2]
        other = MsgpackPublisher(MsgpackEndpoint.parse(f"vllm://127.0.0.1:{port}"))

        with pytest.raises(TransportError, match=f"cannot listen on tcp://127.0.0.1:{port}"):
            other.start()
        other.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://127.0.0.1:1", "expected vllm://HOST:PORT"),
        ("vllm://127.0.0.1", "expected vllm://HOST:PORT"),
        ("vllm://127.0.0.1:99999", "expected vllm://HOST:PORT"),
        ("vllm://127.0.0.1:1?hwm=3", "expected vllm://HOST:PORT"),
        ("vllm://127.0.0.1:1?replay=x", "replay='x': expected a port"),
        ("vllm://0.0.0.0:1", "expected a loopback address"),
        ("vllm://10.0.0.7:1", "expected a loopback address"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(url: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        MsgpackEndpoint.parse(url)

    assert words in str(refused.value)


def test_a_million_hash_events_do_not_outgrow_the_ring() -> None:
    run = BlocksStored(array("Q", range(1, 257)), None, array("I"), 0)
    with published(ring_bytes=100_000) as publisher:
        for _ in range(200):
            publisher.publish([run, BlocksRemoved(run.block_hashes)])
        wait_until(lambda: publisher.counters.events + publisher.counters.dropped_events >= 400)

        assert publisher._ring._num_bytes <= 100_000
