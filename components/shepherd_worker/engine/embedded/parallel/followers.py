"""The other processes of a tensor-parallel engine, owned by the first.

Started, told what to do, and reaped here; see `follower_link` for what is said.
A follower that ends before `close` ends the engine: its peers would wait for its
share of every matrix for ever.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import distributed

from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.parallel.follower_link import (
    Kind,
    Link,
    LinkClosedError,
    decode_records,
    encode_records,
)
from shepherd_worker.engine.embedded.parallel.step_codec import encode_copies, encode_step
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import EngineDeadError, EngineFailedError

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 10.0
"""How long a follower may take to end by itself."""


def join_group(rendezvous: Path, rank: int, size: int, device: torch.device) -> None:
    """Become one of `size` processes that add their shares up; waits for the others.

    They meet through a file and talk over the loopback device, so nothing listens
    beyond this machine.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.FileStore(str(rendezvous), size),  # type: ignore[attr-defined] # public
        rank=rank,
        world_size=size,
    )


def leave_group() -> None:
    """Without waiting for the others, who may have gone; recorded graphs must be gone before."""
    if not distributed.is_initialized():
        return
    if distributed.get_backend() != "nccl":
        distributed.destroy_process_group()
        return
    abort = distributed.distributed_c10d._abort_process_group  # noqa: SLF001 - to destroy it waits
    leaving = threading.Thread(target=abort, name="shepherd-leave-group", daemon=True)
    leaving.start()
    leaving.join(EXIT_TIMEOUT_S)
    if leaving.is_alive():
        log.warning("NCCL does not let go of its group within %.0f s: leaving it", EXIT_TIMEOUT_S)


class Followers:
    """See the module's docstring; `read_blocks` from any thread, the others from the engine's."""

    def __init__(self, died: Callable[[BaseException], None]) -> None:
        """`died` is called from a thread of this object's, at most once."""
        self._died = died
        self._directory = Path(tempfile.mkdtemp(prefix="shepherd-group-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._told = threading.Lock()

    @property
    def rendezvous(self) -> Path:
        """Where the processes meet."""
        return self._directory / "group"

    def start(self, config: EngineConfig, directory: Path, device_type: str) -> None:
        """Start them; they load their shares while this process loads its own."""
        settings = {
            "config": asdict(config),
            "directory": str(directory),
            "device_type": device_type,
            "rendezvous": str(self.rendezvous),
            "num_threads": torch.get_num_threads(),
        }
        for rank in range(1, config.tensor_parallel_size):
            ours, theirs = socket.socketpair()
            with theirs:
                self._processes.append(_start(theirs))
            self._links.append(Link(ours))
            self._links[-1].send(Kind.SETTINGS, json.dumps({**settings, "rank": rank}).encode())
        for process in self._processes:
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def affordable_blocks(self) -> int:
        """What the one with the least memory has room for; waits until all have loaded.

        Raises:
            EngineFailedError: one did not load.
        """
        return min(int.from_bytes(payload, "little") for payload in self._gather(Kind.LOADED))

    def make_caches(self, num_blocks: int, num_host_blocks: int) -> None:
        """Let them make caches of this size; `ready` follows."""
        self._send(Kind.CACHE, struct.pack("<QQ", num_blocks, num_host_blocks))

    def ready(self) -> None:
        """Wait until all can compute.

        Raises:
            EngineFailedError: one cannot.
        """
        self._gather(Kind.READY)

    def step(self, segments: Sequence[Segment], new_block_ids: Sequence[int]) -> None:
        """Let them compute a step, beside this process."""
        self._send(Kind.STEP, encode_step(segments, new_block_ids))

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        """Let them copy between their tiers."""
        self._send(Kind.COPY, encode_copies(copies))

    def read_blocks(self, block_ids: Sequence[int]) -> list[list[memoryview]]:
        """Each follower's records of blocks, by rank."""
        with self._lock:
            for link in self._links:
                link.send(Kind.READ, encode_records(block_ids, ()))
            answers = [link.expect(Kind.RECORDS) for link in self._links]
        return [decode_records(answer)[1] for answer in answers]

    def write_blocks(
        self, block_ids: Sequence[int], records: Sequence[Sequence[bytes | memoryview]]
    ) -> None:
        """Fill each follower's blocks with its own records, by rank."""
        with self._lock:
            for link, own in zip(self._links, records, strict=True):
                link.send(Kind.WRITE, encode_records(block_ids, own))

    def close(self) -> None:
        """End them, by force after `EXIT_TIMEOUT_S`; without effect the second time."""
        self._closing.set()
        for link in self._links:
            link.close()
        for process in self._processes:
            try:
                process.wait(EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("follower process %d does not end: killing it", process.pid)
                process.kill()
                process.wait()
        leave_group()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _send(self, kind: Kind, payload: bytes) -> None:
        with self._lock:
            for link in self._links:
                link.send(kind, payload)

    def _gather(self, kind: Kind) -> list[bytes]:
        try:
            return [link.expect(kind) for link in self._links]
        except LinkClosedError as error:
            raise EngineFailedError(
                "a process of the tensor-parallel group ended while it loaded: its log says why"
            ) from error

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if self._closing.is_set() or not self._told.acquire(blocking=False):
            return
        group = distributed.group.WORLD
        if group is not None and distributed.get_backend() == "nccl":
            group.abort()  # or this process waits for the other's share for ever
        log.critical("follower process %d ended with exit code %d", process.pid, code)
        self._died(EngineDeadError(f"a tensor-parallel process ended with exit code {code}"))


def _start(end: socket.socket) -> subprocess.Popen[bytes]:
    os.set_inheritable(end.fileno(), True)
    module = "shepherd_worker.engine.embedded.parallel.follower"
    return subprocess.Popen(  # noqa: S603 - our own module, no words of anybody else
        [sys.executable, "-m", module, str(end.fileno())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
    )
