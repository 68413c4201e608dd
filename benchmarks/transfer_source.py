"""The other process of the transfer section: leases the same blocks as often as it is asked.

Says on standard output, in JSON, where a raw socket sends the same bytes to
whoever connects, then one ticket for every line on standard input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from dataclasses import asdict

from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.transfer.blocks import BlockSource
from shepherd_worker.engine.embedded.transfer.service import TransferOptions, TransferService

NUM_BLOCKS, BLOCK_BYTES = 256, 384 << 10
NUM_BYTES = NUM_BLOCKS * BLOCK_BYTES
FINGERPRINT = b"f" * 32


def main() -> None:
    """Serve until standard input ends."""
    storage = SharedMemory.allocate(NUM_BYTES, "bench-kv")
    storage.memory[:] = bytes(range(256)) * (NUM_BYTES // 256)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_send_raw, args=(listener, storage), daemon=True).start()
    asyncio.run(_lease(storage, listener.getsockname()[1]))


def _send_raw(listener: socket.socket, storage: SharedMemory) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(storage.memory)


async def _lease(storage: SharedMemory, raw_port: int) -> None:
    service = TransferService(TransferOptions(), released=lambda: None)
    await service.start(storage)
    print(raw_port, flush=True)
    block_ids = [(i * 101) % NUM_BLOCKS for i in range(NUM_BLOCKS)]  # all, out of order
    source = BlockSource(FINGERPRINT, BLOCK_BYTES, block_ids, storage, lambda _: ())
    while await asyncio.to_thread(sys.stdin.readline):
        ticket = service.lease(source, lambda: None)
        print(json.dumps(asdict(ticket)), flush=True)
    await service.close()


if __name__ == "__main__":
    main()
