"""A foreign publisher in a process of its own that tests may kill.

    python foreign_process.py KIND LIVE_PORT REPLAY_PORT

KIND is `form`, our own publisher in vLLM's form, or `vllm` or `sglang`, the real
code of these.  Each line of standard input is a JSON list of events as maps, and
is answered with an empty line when it was sent.
"""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_peers
from shepherd_events.events import BlockEvent, BlockHash, BlocksCleared, BlocksRemoved, BlocksStored
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher
from stream_readers import wait_until

KINDS = ("form", "vllm", "sglang")
Event = dict[str, Any]


def stored(tokens: list[int], *names: int, parent: int | None = None) -> Event:
    """A run of blocks of two tokens."""
    return {"block_hashes": list(names), "parent": parent, "token_ids": tokens}


def removed(*names: int) -> Event:
    return {"block_hashes": list(names)}


class ForeignProcess:
    """The process as its test sees it."""

    def __init__(self, kind: str, live_port: int, replay_port: int) -> None:
        if kind != "form":
            getattr(foreign_peers, kind)()  # skips the test where it cannot be had
        argv = [sys.executable, __file__, kind, str(live_port), str(replay_port)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answered()

    def say(self, *events: Event) -> None:
        """Publish a batch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(events) + "\n")
        self._process.stdin.flush()
        self._answered()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answered(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "\n"


def _form(live_port: int, replay_port: int) -> Callable[[list[Event]], None]:
    url = f"vllm://127.0.0.1:{live_port}?replay={replay_port}"
    publisher = MsgpackPublisher(MsgpackEndpoint.parse(url))
    publisher.start()

    def ours(event: Event) -> BlockEvent:
        names = array("Q", event.get("block_hashes", ()))
        if "token_ids" in event:
            parent = event["parent"] and BlockHash(event["parent"])
            return BlocksStored(names, parent, array("I", event["token_ids"]), 0)
        return BlocksRemoved(names) if names else BlocksCleared()

    def say(events: list[Event]) -> None:
        before = publisher.counters.messages
        publisher.publish([ours(event) for event in events])
        wait_until(lambda: publisher.counters.messages > before)

    return say


def _peer(kind: str, live_port: int, replay_port: int) -> Callable[[list[Event]], None]:
    kv = getattr(foreign_peers, kind)()
    endpoints = (f"tcp://*:{live_port}", f"tcp://*:{replay_port}")
    publisher = kv.ZmqEventPublisher(0, *endpoints)

    def theirs(event: Event) -> Any:
        names = event.get("block_hashes")
        if "token_ids" in event:
            more = {"lora_name": None} if kind == "vllm" else {}
            tokens = event["token_ids"]
            return kv.BlockStored(
                block_hashes=names,
                parent_block_hash=event["parent"],
                token_ids=tokens,
                block_size=2,
                lora_id=None,
                medium="GPU",
                **more,
            )
        return kv.BlockRemoved(names, "GPU") if names else kv.AllBlocksCleared()

    def say(events: list[Event]) -> None:
        before = len(publisher._buffer)
        publisher.publish(kv.KVEventBatch(ts=0.5, events=[theirs(event) for event in events]))
        wait_until(lambda: len(publisher._buffer) > before)

    return say


def main(kind: str, live_port: int, replay_port: int) -> None:
    open_one = _form if kind == "form" else lambda *ports: _peer(kind, *ports)
    say = open_one(live_port, replay_port)
    print(flush=True)
    for line in sys.stdin:
        say(json.loads(line))
        print(flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
