"""What lies between publishers and readers: `python wires.py TARGETS_AS_JSON`.

A live ZMQ endpoint is relayed frame by frame, so that single frames can be lost,
repeated, held back and altered; everything else is a TCP connection that can be
stalled in either direction, or cut.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import zmq
import zmq.asyncio

from fault_proxy import FaultProxy
from line_process import say
from shepherd_events.transports.memory import FaultyWire


class LiveRelay:
    """From one PUB to another, over a faulty wire."""

    def __init__(self, target_port: int, seed: str) -> None:
        context = zmq.asyncio.Context.instance()
        self._source = context.socket(zmq.SUB)
        self._source.subscribe(b"")
        self._source.reconnect_ivl = 50
        self._source.connect(f"tcp://127.0.0.1:{target_port}")
        self._sink = context.socket(zmq.PUB)
        self.port = self._sink.bind_to_random_port("tcp://127.0.0.1")
        self.wire = FaultyWire(Random(seed))

    async def run(self) -> None:
        while True:
            topic, payload = await self._source.recv_multipart()
            for arriving in self.wire.carry(payload):
                await self._sink.send_multipart((topic, arriving))

    def treat(self, fault: str) -> None:
        wire = self.wire
        wire.loss = wire.duplication = wire.reordering = wire.corruption = 0.0
        match fault:
            case "lose":
                wire.loss = 0.3
            case "silence":
                wire.loss = 1.0
            case "shuffle":
                wire.duplication = wire.reordering = 0.3
            case "flip":
                wire.corruption = 0.1


def treat_connection(proxy: FaultProxy, fault: str) -> None:
    match fault:
        case "stall":
            proxy.stall()
        case "deaf":
            proxy.stall_answers()
        case "mute":
            proxy.stall_questions()
        case "cut":
            proxy.cut()
        case _:
            proxy.heal()


async def main(targets: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        relays = {
            name: LiveRelay(port, f"{targets['seed']}-{name}")
            for name, port in targets["live"].items()
        }
        proxies = {
            name: await stack.enter_async_context(FaultProxy(port))
            for name, port in targets["tcp"].items()
        }
        running = [asyncio.create_task(relay.run()) for relay in relays.values()]
        say({name: wire.port for name, wire in (relays | proxies).items()})
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            if command["wire"] in relays:
                relays[command["wire"]].treat(command["fault"])
            else:
                treat_connection(proxies[command["wire"]], command["fault"])
            assert not any(task.done() for task in running)
            say({})


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
