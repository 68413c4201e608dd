"""A process that holds one share of a tensor-parallel model and does as it is told.

    python -m shepherd_worker.engine.embedded.parallel.follower SOCKET

Started by `followers.Followers` alone.  Ends when the leader's end of the socket
closes, even while the device waits for the leader's share of a matrix.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from shepherd_worker.engine.embedded.parallel.follower_link import (
    Kind,
    Link,
    LinkClosedError,
    decode_records,
    encode_records,
)
from shepherd_worker.engine.embedded.parallel.followers import join_group
from shepherd_worker.engine.embedded.parallel.shard import Shard
from shepherd_worker.engine.embedded.parallel.step_codec import decode_copies, decode_step
from shepherd_worker.engine.embedded.parallel.tensor_parallel import Share
from shepherd_worker.engine.protocol import EngineConfig

log = logging.getLogger(__name__)

END_TIMEOUT_S = 5.0
"""How long work may go on after the leader has gone."""

Frames = SimpleQueue[tuple[Kind, bytes] | None]


def main() -> None:
    """Serve until the leader has gone."""
    logging.basicConfig(level=logging.WARNING, format="follower: %(levelname)s %(message)s")
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    settings = json.loads(link.expect(Kind.SETTINGS))
    shard = _load(link, settings)
    frames: Frames = SimpleQueue()
    threading.Thread(target=_receive, args=(link, frames), daemon=True).start()
    while (frame := frames.get()) is not None:
        _obey(shard, link, *frame)
    os._exit(0)  # the group's own end would wait for the leader


def _load(link: Link, settings: dict[str, Any]) -> Shard:
    config, rank = EngineConfig(**settings["config"]), settings["rank"]
    torch.set_num_threads(settings["num_threads"])
    device = torch.device("cpu")
    if settings["device_type"] == "cuda":
        device = torch.device("cuda", rank)
    size = config.tensor_parallel_size
    join_group(Path(settings["rendezvous"]), rank, size, device)
    shard = Shard(config, Share(rank, size))
    num_blocks = shard.load(Path(settings["directory"]), device)
    link.send(Kind.LOADED, num_blocks.to_bytes(8, "little"))
    shard.make_cache(*struct.unpack("<QQ", link.expect(Kind.CACHE)))
    link.send(Kind.READY)
    return shard


def _receive(link: Link, frames: Frames) -> None:
    """Hand frames over; after the last one the process ends, whatever it is doing."""
    try:
        while True:
            frames.put(link.receive())
    except LinkClosedError:
        frames.put(None)
    threading.Event().wait(END_TIMEOUT_S)
    os._exit(1)


def _obey(shard: Shard, link: Link, kind: Kind, payload: bytes) -> None:
    if kind is Kind.STEP:
        shard.logits(*decode_step(payload))
    elif kind is Kind.COPY:
        shard.copy_blocks(decode_copies(payload))
    elif kind is Kind.WRITE:
        shard.write_blocks(*decode_records(payload))
    elif kind is Kind.READ:
        block_ids, _ = decode_records(payload)
        link.send(Kind.RECORDS, encode_records(block_ids, shard.read_blocks(block_ids)))
    else:
        raise RuntimeError(f"a follower takes no {kind.name}")


if __name__ == "__main__":
    main()
