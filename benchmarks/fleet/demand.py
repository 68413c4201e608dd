"""From what the fleet does and what things cost to what each part must carry; arithmetic only.

A steady state: a full cache removes a block for each that it stores.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.fleet.costs import BLOCK_SIZE, Costs

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is supposed; nothing of it is measured."""

    workers: int = 1_000
    blocks: int = 10**9
    """Resident in all caches of all tiers together."""
    new_tokens_per_worker_s: float = 2_500.0
    """Computed and generated; what was found in the cache stores no block."""
    new_tokens_per_turn: float = 1_500.0
    tenants: int = 10_000
    sessions: int = 1_000_000
    """Active ones."""
    core_usd_per_hour: float = 0.05
    disk_usd_per_gib_month: float = 0.10
    months_kept: float = 12.0
    memory_gib_per_process: float = 64.0
    """What one process of the memory service is given."""
    network_bytes_s: float = 10e9 / 8
    """Of one broker's or reader's network card, 10 Gbit/s."""
    logged_blocks_s: float = 60_000.0
    """Blocks that one JetStream stream acknowledges, file store, synced always; from
    docs/kv-events.md, where it is told as events of one block or more."""

    @property
    def turns_s(self) -> float:
        """Completed in the whole fleet."""
        return self.workers * self.new_tokens_per_worker_s / self.new_tokens_per_turn

    @property
    def stored_blocks_s(self) -> float:
        """Stored, and as many removed, in the whole fleet."""
        return self.workers * self.new_tokens_per_worker_s / BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Load:
    """What one part carries, and what one process of it can."""

    part: str
    demand: float
    capacity: float
    unit: str

    @property
    def processes(self) -> float:
        """How many would be busy all the time; the least that could do."""
        return self.demand / self.capacity

    def saturates_at(self, fleet: Fleet) -> int:
        """Workers that one process serves."""
        return int(fleet.workers / self.processes)


def loads(fleet: Fleet, costs: Costs) -> list[Load]:
    """Every part, the fullest first."""
    wire = stream_bytes_s(fleet, costs)
    follow_s = costs.decode_block_s + 2 * costs.index_block_s
    index_bytes = fleet.memory_gib_per_process * GIB
    found = [
        Load("index memory", fleet.blocks * costs.index_block_bytes, index_bytes, "bytes"),
        Load("stream to one reader", wire, fleet.network_bytes_s, "bytes/s"),
        Load("decoding and index", fleet.stored_blocks_s * follow_s, 1.0, "cores"),
        Load("log, one JetStream stream", fleet.stored_blocks_s, fleet.logged_blocks_s, "blocks/s"),
        Load("archive, one writer", fleet.turns_s * costs.archive_turn_s, 1.0, "cores"),
        Load(
            "publishing, one worker",
            fleet.stored_blocks_s / fleet.workers * costs.encode_block_s,
            1.0,
            "cores",
        ),
    ]
    return sorted(found, key=lambda load: -load.processes)


def stream_bytes_s(fleet: Fleet, costs: Costs) -> float:
    """What all workers together send to one reader of everything."""
    a_block = costs.stored_block_bytes + costs.removed_block_bytes
    return fleet.stored_blocks_s * a_block + fleet.turns_s * costs.turn_bytes


def usd_per_million_turns(fleet: Fleet, costs: Costs) -> dict[str, float]:
    """Of the stream and the memory; the model's own cost is left out."""
    blocks = fleet.new_tokens_per_turn / BLOCK_SIZE
    core = fleet.core_usd_per_hour / 3600 * 1e6
    a_block = costs.encode_block_s + costs.decode_block_s + 2 * costs.index_block_s
    kept = costs.archive_turn_bytes * 1e6 / GIB
    return {
        "stream and index, CPU": blocks * a_block * core,
        "archive, CPU": costs.archive_turn_s * core,
        "archive, disk": kept * fleet.disk_usd_per_gib_month * fleet.months_kept,
    }
