"""A reader of every stream: `python reader.py ADDRESSES_AS_JSON`.

Holds what it was handed, and answers where it stands and what it holds there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from array import array
from typing import Any

from line_process import say
from shepherd_events.events import BlocksRemoved, BlocksStored, StreamAddress, StreamId
from shepherd_events.follow import FixedDirectory, StreamFollower, StreamItem, follow
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import Patience
from soak.cache_life import digest_json, fingerprint

SILENCE_S = 1.0
PATIENCE = Patience(
    silence_s=SILENCE_S,
    request_s=0.5,
    first_retry_s=0.05,
    last_retry_s=0.5,
    between_snapshots_s=0.1,
)


class SoakReader:
    """What was handed out, applied."""

    def __init__(self, follower: StreamFollower) -> None:
        self._follower = follower
        self.held: dict[StreamId, ResidentSet] = {}
        self.at: dict[StreamId, Position] = {}
        self.pause_s = 0.0
        """After each item: the back-pressure of a slow consumer."""

    async def read(self) -> None:
        async for change in self._follower:
            if isinstance(change, StreamItem):
                self.held.setdefault(change.stream, ResidentSet()).follow(change.item)
                self.at[change.stream] = change.position
                await asyncio.sleep(self.pause_s)

    def sample(self, *, whole: bool) -> list[dict[str, Any]]:
        """Each stream's state and what is held of it, at one moment."""
        samples = []
        for stream, followed in self._follower.streams.items():
            held, at = self.held.get(stream, ResidentSet()), self.at.get(stream, Position(0, 0))
            received = followed.position or Position(0, 0)
            samples.append(
                {
                    "stream": str(stream),
                    "state": followed.state.value,
                    "received": [received.epoch, received.seq],
                    "position": [at.epoch, at.seq],
                    "digest": digest_json(held.digest()),
                    "fingerprint": fingerprint(held) if whole else "",
                    "now_ns": time.time_ns(),
                    "counters": {
                        name: getattr(followed.counters, name)
                        for name in ("gaps", "replays", "snapshots", "corrupt", "digest_mismatches")
                    },
                }
            )
        return samples

    def corrupt(self, number: int) -> None:
        """Change one block of what a subscription believes that we hold."""
        streams = list(self._follower.streams.values())
        residents = streams[number % len(streams)].residents
        assert residents is not None
        some = next(iter(residents.hashes()), None)
        if some is None:
            residents.apply(BlocksStored(array("Q", [77]), None, array("I", [1, 2]), 0))
        else:
            residents.apply(BlocksRemoved(array("Q", [some])))


def answer(reader: SoakReader, command: dict[str, Any]) -> object:
    match command["do"]:
        case "sample":
            return reader.sample(whole=command.get("whole", False))
        case "pause":
            reader.pause_s = command["seconds"]
        case "corrupt":
            reader.corrupt(command["number"])
        case "health":
            return {"tasks": len(asyncio.all_tasks()), "threads": threading.active_count()}
    return {}


async def main(addresses: list[dict[str, Any]]) -> None:
    directory = FixedDirectory(
        StreamAddress(stream=StreamId(**each.pop("stream")), **each) for each in addresses
    )
    async with follow(directory, keep_residents=True, patience=PATIENCE) as follower:
        reader = SoakReader(follower)
        reading = asyncio.create_task(reader.read())
        say({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(answer(reader, json.loads(line)))
        reading.cancel()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
