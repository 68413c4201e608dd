"""One side of a transfer in a process of its own, driven by lines of JSON.

serve MODE HOST [SECRET_FILE]     leases 64 MiB; prints the ticket, pauses after 8 MiB
                                  until "go", answers "stats"
fetch MODE [SECRET_FILE]          a ticket per line -> digest and counters
engine MODEL HOST [SECRET_FILE]   {"prompt", "handoff"?} -> {"tokens", "handoff", "stats"}
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import threading
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from shepherd_worker.engine.embedded.transfer.handshake import read_secret
from shepherd_worker.engine.embedded.transfer.service import (
    TransferMode,
    TransferOptions,
    TransferService,
)
from shepherd_worker.engine.protocol import EngineConfig, Ticket
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions
from shepherd_worker.wire import parse_handoff, render_handoff

RECORD_BYTES, NUM_RECORDS, PAUSE_AT = 1 << 20, 64, 8
FINGERPRINT = b"p" * 32
TIMEOUT_S = 1.0


def record(index: int) -> bytes:
    return bytes([index]) * RECORD_BYTES


class PausingSource:
    """Records whose reader stops in the middle until it is let go."""

    fingerprint = FINGERPRINT
    record_bytes = RECORD_BYTES
    num_records = NUM_RECORDS

    def __init__(self) -> None:
        self.go = threading.Event()

    def read(self, first: int, count: int) -> Sequence[memoryview]:
        if first == PAUSE_AT:
            say("paused")
            self.go.wait()
        return [memoryview(record(i)) for i in range(first, first + count)]

    def offsets(self, first: int, count: int) -> Sequence[int] | None:
        return None


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


async def lines() -> AsyncIterator[Any]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


def options(mode: str, host: str, secret: list[str]) -> TransferOptions:
    return TransferOptions(
        mode=cast("TransferMode", mode),
        host=host,
        secret=read_secret(Path(secret[0])) if secret else None,
        timeout_s=TIMEOUT_S,
    )


async def serve(mode: str, host: str, *secret: str) -> None:
    service = TransferService(options(mode, host, list(secret)), released=lambda: None)
    await service.start()
    source = PausingSource()
    say(asdict(service.lease(source, lambda: None)))
    async for line in lines():
        if line == "go":
            source.go.set()
        else:
            say(asdict(service.stats()))
    await service.close()


async def fetch(mode: str, *secret: str) -> None:
    service = TransferService(options(mode, "127.0.0.1", list(secret)), released=lambda: None)
    await service.start()
    say("ready")
    async for line in lines():
        records = await service.fetch(
            Ticket(**line), 0, NUM_RECORDS, fingerprint=FINGERPRINT, record_bytes=RECORD_BYTES
        )
        digest = None if records is None else hashlib.sha256(b"".join(records)).hexdigest()
        say({"digest": digest, **asdict(service.stats())})
    await service.close()


async def engine(model: str, host: str, *secret: str) -> None:
    from shepherd_worker.engine.embedded.engine import EmbeddedEngine
    from shepherd_worker.engine.embedded.torch_runner import TorchRunner

    config = EngineConfig(
        model=model,
        block_size=4,
        num_kv_blocks=128,
        device="cpu",
        dtype="float32",
        kv_transfer="tcp",
        transfer_host=host,
        transfer_secret_file=secret[0] if secret else "",
    )
    made = EmbeddedEngine(config, TorchRunner(config), transfer_timeout_s=TIMEOUT_S)
    await made.start()
    say("ready")
    async for line in lines():
        call = GenerateRequest(
            request_id="r",
            token_ids=array("I", line["prompt"]),
            sampling=Sampling(temperature=0.0),
            stops=StopConditions(max_tokens=12, ignore_eos=True),
        )
        if line.get("prefill"):
            result = await made.prefill(call)
            say({"handoff": render_handoff(result.handoff)})
            continue
        handoff = line.get("handoff")
        tokens: list[int] = []
        chunks = made.generate(call, None if handoff is None else parse_handoff(handoff))
        async with aclosing(chunks) as stream:
            async for chunk in stream:
                tokens += chunk.token_ids
        stats = made.stats()
        say(
            {
                "tokens": tokens,
                "transfers": dict(stats.transfers_total),
                "failures": stats.transfer_failures_total,
            }
        )
    await made.close()


if __name__ == "__main__":
    asyncio.run({"serve": serve, "fetch": fetch, "engine": engine}[sys.argv[1]](*sys.argv[2:]))
