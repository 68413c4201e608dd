"""A worker of several ranks: `python worker.py SETTINGS_AS_JSON`.

Publishes at a steady rate while it is told to, and answers what was true when.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from array import array
from dataclasses import asdict
from random import Random
from typing import Any

from line_process import say
from shepherd_events.epoch_file import EpochFile
from shepherd_events.events import BlocksStored, StreamId, StreamInfo
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.protocol import PublisherTransport
from soak.cache_life import CacheLife, Ledger, digest_json, fingerprint
from stream_readers import turn

TICK_S = 0.02
HEARTBEAT_S = 0.2
INFO = StreamInfo(model="soak", block_size=2, hash_algo="blake2b-64/v1", dp_size=2)


class Rank:
    """One stream, its truth, and the memory of its truths."""

    def __init__(self, settings: dict[str, Any], rank: int) -> None:
        stream = StreamId(settings["worker"], rank)
        self.publisher = KvEventPublisher(
            stream,
            INFO,
            _transport(settings, stream),
            clock=lambda: time.time_ns() + settings["clock_offset_ns"],
            epoch_file=EpochFile(f"{settings['directory']}/epoch-{settings['worker']}-{rank}"),
            max_queued_events=settings["max_queued_events"],
            ring_bytes=settings["ring_bytes"],
            heartbeat_s=HEARTBEAT_S,
        )
        self.publisher.start()
        self.life = CacheLife(Random(f"{settings['seed']}-{stream}-{self.publisher.epoch}"))
        self.ledger = Ledger(self.publisher.epoch, time.time_ns())
        self._told = 0

    def tell(self, requests: int) -> None:
        for _ in range(requests):
            self.publisher.publish(self.life.step())
            self._told += 1
            self._note()
            if self._told % 50 == 0:
                self.publisher.publish_turn(turn(self._told))
                self._note()

    def tell_nonsense(self) -> None:
        """An event that has no bytes: no hash is 0."""
        self.publisher.publish([BlocksStored(array("Q", [0]), None, array("I", [1, 2]), 0)])
        self._note()

    def _note(self) -> None:
        digest = digest_json(self.life.truth.digest())
        self.ledger.note(self.publisher.head_seq, digest, time.time_ns())

    def truth(self) -> dict[str, Any]:
        return {
            "stream": str(self.publisher.stream),
            "position": [self.publisher.epoch, self.publisher.head_seq],
            "digest": digest_json(self.life.truth.digest()),
            "fingerprint": fingerprint(self.life.truth),
            "counters": asdict(self.publisher.counters),
        }

    def at(self, epoch: int, seq: int) -> dict[str, Any]:
        """What was true at a position, if it is one of this epoch that is remembered."""
        ours = epoch == self.ledger.epoch
        return {
            "epoch": self.ledger.epoch,
            "digest": self.ledger.at(seq) if ours else None,
            "next_ns": self.ledger.born_ns(seq + 1) if ours else self.ledger.began_ns,
        }


def _transport(settings: dict[str, Any], stream: StreamId) -> PublisherTransport:
    if settings["transport"] == "zmq":
        from shepherd_events.transports.zmq import ZmqPublisherTransport

        return ZmqPublisherTransport("127.0.0.1", *settings["ports"][stream.dp_rank])
    from shepherd_events.transports.nats_log import Retention
    from shepherd_events.transports.nats_publisher import NatsPublisherTransport

    retention = Retention(max_bytes=settings["log_bytes"])
    return NatsPublisherTransport(settings["broker"], stream, retention=retention)


def answer(ranks: list[Rank], command: dict[str, Any]) -> object:
    match command["do"]:
        case "truth":
            return [rank.truth() for rank in ranks]
        case "at":
            return ranks[command["rank"]].at(command["epoch"], command["seq"])
        case "flood":
            ranks[command["rank"]].tell(command["requests"])
        case "nonsense":
            ranks[command["rank"]].tell_nonsense()
        case "health":
            return {"threads": threading.active_count()}
    return {}


def main(settings: dict[str, Any]) -> None:
    ranks = [Rank(settings, rank) for rank in range(settings["ranks"])]
    say([asdict(rank.publisher.address) for rank in ranks])
    is_running = False
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], TICK_S)
        if readable:
            line = sys.stdin.readline()
            if not line:
                return
            command = json.loads(line)
            is_running = command.get("run", is_running)
            say(answer(ranks, command))
        elif is_running:
            for rank in ranks:
                rank.tell(round(settings["requests_per_s"] * TICK_S))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
