"""`shepherd kv bridge` between real publishers, which are killed and cut off, and our readers."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

import foreign_peers
from fault_proxy import FaultProxy
from foreign_process import KINDS, ForeignProcess, removed, stored
from nats_broker import NatsBroker
from shepherd_cli.kv.app import app
from shepherd_cli.stack import free_port
from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.foreign.msgpack_form import encode_batch
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_url import StreamUrl, resolve
from shepherd_events.subscriber import StreamState, subscribe
from stream_readers import Reader, wait_until

ENV = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120", "TERM": "dumb"}
TOKENS = list(range(10, 20))
OURS = list(block_hashes(root_hash(b"m"), array("I", TOKENS), 2))


def blocks(start: int, stop: int) -> dict[str, object]:
    """Blocks [start, stop) of one chain; the publisher calls them 1, 2, 3 ..."""
    names = range(start + 1, stop + 1)
    return stored(TOKENS[2 * start : 2 * stop], *names, parent=start or None)


class BridgeProcess:
    """The command as its test sees it."""

    def __init__(self, *args: str) -> None:
        argv = [sys.executable, "-m", "shepherd_cli", "kv", "bridge", *args, "--model", "m"]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV
        )

    def url(self) -> str:
        """Of the stream that begins next."""
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url, self.process.stderr and self.process.stderr.read()
        return url

    def end(self) -> str:
        """Its last words; it must end well."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=15)
        assert (self.process.returncode, "Traceback" in err) == (0, False), err
        return err


@contextmanager
def bridged(*args: str) -> Iterator[BridgeProcess]:
    bridge = BridgeProcess(*args)
    try:
        yield bridge
        bridge.end()
    finally:
        bridge.process.kill()
        bridge.process.communicate()


class Foreign:
    """A publisher on ports that it finds again."""

    def __init__(self, kind: str = "form") -> None:
        self.kind = kind
        self.live_port, self.replay_port = free_port(), free_port()
        self.process = ForeignProcess(kind, self.live_port, self.replay_port)

    @property
    def args(self) -> tuple[str, ...]:
        live, replay = (f"tcp://127.0.0.1:{port}" for port in (self.live_port, self.replay_port))
        form = "sglang" if self.kind == "sglang" else "vllm"
        return (live, "--replay", replay, "--format", form, "--block-size", "2")

    def restart(self) -> None:
        self.process.kill()
        self.process = ForeignProcess(self.kind, self.live_port, self.replay_port)


@contextmanager
def published(kind: str = "form") -> Iterator[Foreign]:
    foreign = Foreign(kind)
    try:
        yield foreign
    finally:
        foreign.process.kill()


async def held(url: str, expected: list[int]) -> int:
    """Read a stream until it holds these blocks and is live; its epoch."""
    address = await resolve(StreamUrl.parse(url))
    residents = ResidentSet()
    async with subscribe(address, residents=residents) as subscription:
        reader = Reader(subscription, residents)
        await reader.read_until(
            lambda: residents.hashes() == set(expected) and subscription.state is StreamState.LIVE
        )
        return subscription.position.epoch


@pytest.mark.parametrize("kind", KINDS)
async def test_a_publisher_s_blocks_are_ours_before_and_after_it_was_killed(kind: str) -> None:
    with published(kind) as foreign:
        foreign.process.say(blocks(0, 2))
        with bridged(*foreign.args, "--probe-s", "0.3") as bridge:
            url = bridge.url()
            epoch = await held(url, OURS[:2])
            foreign.process.say(blocks(2, 4), removed(4))
            await held(url, OURS[:3])

            foreign.restart()
            foreign.process.say(blocks(0, 1))
            assert await held(url, OURS[:1]) == epoch


async def test_frames_that_the_network_dropped_are_fetched() -> None:
    with published() as foreign:
        async with FaultProxy(foreign.live_port) as proxy:
            through = (f"tcp://127.0.0.1:{proxy.port}", *foreign.args[1:])
            with bridged(*through, "--probe-s", "30") as bridge:
                url = bridge.url()
                foreign.process.say(blocks(0, 2))
                await held(url, OURS[:2])
                proxy.cut()
                foreign.process.say(blocks(2, 5))
                foreign.process.say(removed(5))
                proxy.heal()
                await held(url, OURS[:4])


async def test_without_a_replay_a_broken_connection_costs_what_was_held() -> None:
    with published() as foreign:
        async with FaultProxy(foreign.live_port) as proxy:
            with bridged(f"tcp://127.0.0.1:{proxy.port}", "--block-size", "2") as bridge:
                url = bridge.url()
                await heard(url, foreign)
                proxy.cut()
                proxy.heal()
                await held(url, [])


async def heard(url: str, foreign: Foreign) -> None:
    """Say the same again until it was heard: a subscription cannot be seen from here."""
    holding = asyncio.create_task(held(url, OURS[:2]))
    while not holding.done():
        foreign.process.say({}, blocks(0, 2))  # cleared first: nothing is told twice
        await asyncio.wait([holding], timeout=0.02)
    await holding


async def test_what_is_no_message_or_no_batch_is_counted_and_costs_what_was_held() -> None:
    metrics_port = free_port()
    context = zmq.Context[zmq.Socket[bytes]]()
    live = context.socket(zmq.PUB)
    live.linger = 0
    port = live.bind_to_random_port("tcp://127.0.0.1")
    options = ("--block-size", "2", "--metrics-port", str(metrics_port))
    with bridged(f"tcp://127.0.0.1:{port}", *options) as bridge:
        url = bridge.url()
        holding = asyncio.create_task(held(url, OURS[:1]))
        seq = 0
        while not holding.done():
            maps = [
                {
                    "type": "BlockStored",
                    "block_hashes": [1],
                    "token_ids": TOKENS[:2],
                    "block_size": 2,
                }
            ]
            live.send_multipart((b"", seq.to_bytes(8, "big"), encode_batch(1.0, maps, 0)))
            seq += 1
            await asyncio.wait([holding], timeout=0.02)
        for parts in ((b"",), (b"", b"short", b""), (b"", bytes(8), b"", b"")):
            live.send_multipart(parts)
        live.send_multipart((b"", seq.to_bytes(8, "big"), b"\xc1"))

        await held(url, [])
        metrics = scraped(metrics_port)
        assert "shepherd_bridge_source_foreign_messages_total 3.0" in metrics
        assert "shepherd_bridge_source_undecodable_total 1.0" in metrics
    live.close()
    context.term()


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        metrics: str = response.read().decode()
        return metrics


async def test_the_ranks_of_dynamo_s_tensorrt_worker_become_streams() -> None:
    publisher_class = foreign_peers.dynamo_trtllm().ZmqKvEventPublisher
    port = free_port()
    publisher = publisher_class(f"tcp://127.0.0.1:{port}", 2)
    try:
        source = f"tcp://127.0.0.1:{port}"
        with bridged(
            source, "--format", "dynamo-trtllm", "--publish", "tcp://127.0.0.1:0"
        ) as bridge:
            urls = []
            for rank in (0, 3):
                while len(urls) == (rank > 0):
                    publisher.publish_stored(TOKENS[:4], [2, 2], [1, -1], None, None, rank)
                    urls += _waiting(bridge)
            await held(urls[0], OURS[:2])
            publisher.publish_removed([2**64 - 1], 3)
            await held(urls[1], OURS[:1])
            await held(urls[0], OURS[:2])
            assert [url.rpartition("&")[2] for url in urls] == ["rank=0", "rank=3"]
    finally:
        publisher.shutdown()


def _waiting(bridge: BridgeProcess) -> list[str]:
    """The URL that was written within a moment, if one was."""
    assert bridge.process.stdout is not None
    ready, _, _ = select.select([bridge.process.stdout], [], [], 0.05)
    return [bridge.url()] if ready else []


def kv(*args: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "shepherd_cli", "kv", *args]
    done = subprocess.run(argv, env=ENV, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout


def test_every_command_takes_the_stream_for_a_worker_s_and_metrics_say_what_was_left_out() -> None:
    port = free_port()
    with published() as foreign:
        foreign.process.say(blocks(0, 3), removed(3), blocks(4, 5))
        with bridged(*foreign.args, "--worker-id", "v1", "--metrics-port", str(port)) as bridge:
            url = bridge.url()
            wait_until(lambda: json.loads(kv("stats", url, "--json")[1])["blocks"] == {"device": 2})

            assert kv("diff", url) == (0, "device  equal: 2 blocks on both sides\n")
            code, out = kv("tail", url, "--from-start", "--format", "{worker} {op}", "-n", "2")
            assert (code, out.splitlines()) == (0, ["v1 info", "v1 stored"])
            metrics = scraped(port)
            assert "shepherd_bridge_source_connected 1.0" in metrics
            assert 'shepherd_bridge_blocks_unknown_parents_total{rank="0"} 1.0' in metrics
            assert 'shepherd_bridge_blocks_stored_total{rank="0"} 3.0' in metrics
            assert 'shepherd_stream_tombstones_total{rank="0"} 0.0' in metrics


async def test_a_bridge_publishes_to_a_broker(tmp_path: Path) -> None:
    broker = NatsBroker(tmp_path).start()
    try:
        with published() as foreign:
            foreign.process.say(blocks(0, 2))
            with bridged(*foreign.args, "--publish", broker.url, "--worker-id", "v1") as bridge:
                url = bridge.url()
                assert url == f"{broker.url}/kv.v1.v1.0"
                await held(url, OURS[:2])
    finally:
        broker.kill()


SOURCE = "tcp://127.0.0.1:5557"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, "--source"),
        (("udp://127.0.0.1:1",), 2, "--source: 'udp://127.0.0.1:1' is not valid: expected tcp://"),
        (("tcp://10.0.0.7:5557",), 2, "--trust-network: whoever reaches it can pretend"),
        ((SOURCE, "--format", "moon"), 2, "one of vllm, sglang, dynamo-trtllm"),
        ((SOURCE, "--publish", "http://127.0.0.1:1"), 2, "--publish"),
        (
            (SOURCE, "--publish", "tcp://10.0.0.7:1"),
            2,
            "a loopback address, or --kv-events-curve-file",
        ),
        ((SOURCE, "--replay", "5558"), 2, "--replay: '5558' is not valid"),
        ((SOURCE, "--probe-s", "0"), 2, "a number >= 0.05"),
        ((SOURCE, "--register", "ns.bridge"), 2, "--block-size"),
        ((SOURCE, "--register", "bridge"), 2, "NAMESPACE.COMPONENT"),
        ((SOURCE, "--kv-events-also", "vllm://127.0.0.1:1"), 2, "nothing: the source does it"),
        ((SOURCE, "--moon", "1"), 2, "a known flag"),
    ],
)
def test_a_wrong_option_is_said_in_one_line(args: tuple[str, ...], code: int, words: str) -> None:
    ended = CliRunner().invoke(app, ["bridge", *args])

    assert (ended.exit_code, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_port_that_is_taken_ends_the_bridge_with_three() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        ended = CliRunner().invoke(app, ["bridge", SOURCE, "--block-size", "2", "--publish", url])

    assert ended.exit_code == 3
    assert f"cannot listen on {url}" in ended.stderr


def test_the_options_are_shown_with_where_they_came_from() -> None:
    ended = CliRunner().invoke(app, ["bridge", SOURCE, "--check"], env={"SHEPHERD_TOPIC": "kv"})

    assert ended.exit_code == 0
    rows = [line.split() for line in ended.stdout.splitlines()]
    assert ["--source", SOURCE, "flag", "--source"] in rows
    assert ["--topic", "kv", "variable", "SHEPHERD_TOPIC"] in rows
