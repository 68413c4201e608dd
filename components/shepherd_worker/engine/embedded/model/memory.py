"""How many KV blocks fit."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.validation import count_host_blocks
from shepherd_worker.errors import EngineFailedError

CPU_SHARE = 0.25
"""Of the memory that is available on a CPU machine; others need the rest."""


def choose_num_blocks(
    config: EngineConfig, *, block_bytes: int, max_seq_len: int, device: torch.device
) -> int:
    """What the option says, else what every running sequence could use and the memory allows.

    Raises:
        EngineFailedError: the memory does not suffice.
    """
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        budget = int(free * config.kv_cache_free_gpu_mem_fraction)
    else:
        free = _available_bytes()
        budget = int(free * CPU_SHARE)
    if config.num_kv_blocks is not None:
        if config.num_kv_blocks * block_bytes > free:
            raise EngineFailedError(
                f"{config.num_kv_blocks} KV blocks need {config.num_kv_blocks * block_bytes >> 20} "
                f"MiB, but {free >> 20} MiB are free"
            )
        return config.num_kv_blocks
    affordable = budget // block_bytes
    if affordable < 1:
        raise EngineFailedError(f"no memory for KV blocks: {free >> 20} MiB are free")
    if device.type == "cuda":
        return affordable
    useful = -(-max_seq_len // config.block_size) * config.max_batch_size
    return min(affordable, useful)


def choose_num_host_blocks(config: EngineConfig, *, block_bytes: int) -> int:
    """As many as the option's bytes hold.

    Raises:
        EngineFailedError: the machine has not that much memory left, or the bytes hold no tier.
    """
    num_blocks = count_host_blocks(config, block_bytes)
    free = _available_bytes()
    if num_blocks * block_bytes > free:
        raise EngineFailedError(
            f"host_cache_size={config.host_cache_size} bytes are more than the {free} that are free"
        )
    return num_blocks


def _available_bytes() -> int:
    """Memory that this process may still take: the machine's, or less in a container."""
    pages: int = os.sysconf("SC_AVPHYS_PAGES")
    available = pages * os.sysconf("SC_PAGE_SIZE")
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        available = min(available, int(limit) - int(used))
    return max(0, available)


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""
