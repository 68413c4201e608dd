"""A fleet of 1,000 workers and 10^9 blocks: what it asks of the stream and the memory.

    make bench NAME=scale
    python -m benchmarks.scale --workers 100 --sessions 100000

Costs are measured here, first; what the fleet does is supposed, and stands in
`benchmarks/fleet/demand.py`.  docs/scale.md explains a run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from benchmarks.figure import machine
from benchmarks.fleet.costs import measured
from benchmarks.fleet.demand import Fleet, loads, stream_bytes_s, usd_per_million_turns
from benchmarks.fleet.shards import Key, spread

OUT = Path("build/bench/scale.json")
PARTITIONS = (8, 16, 64)


def main() -> None:
    """Measure, compute, simulate, report."""
    fleet = _fleet()
    costs = measured()
    carried = loads(fleet, costs)
    money = usd_per_million_turns(fleet, costs)
    spreads = [spread(fleet, key, n) for key in get_args(Key) for n in PARTITIONS]
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    for name, value in asdict(costs).items():
        print(f"  {name:24} {value:.4g}")
    print(
        f"{fleet.turns_s:,.0f} turns/s, {fleet.stored_blocks_s:,.0f} blocks/s stored and removed, "
    )
    print(f"{stream_bytes_s(fleet, costs) / 1e6:,.1f} MB/s of events")
    for load in carried:
        print(
            f"  {load.part:26} {load.demand:12.4g} {load.unit:9} = {load.processes:9.4g} of one "
            f"process, full at {load.saturates_at(fleet):,} workers"
        )
    for row in spreads:
        print(
            f"  by {row.key:18} over {row.partitions:3}: busiest {row.busiest:5.2f} of the mean, "
            f"lag p99 {row.p99_lag_s:.2f} s, a minute away is made up in {row.recovered_s:g} s"
        )
    for what, usd in money.items():
        print(f"  {what:24} {usd:8.4f} USD per million turns")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(),
        "fleet": asdict(fleet),
        "costs": asdict(costs),
        "loads": [asdict(load) | {"processes": load.processes} for load in carried],
        "spreads": [asdict(row) for row in spreads],
        "usd_per_million_turns": money,
    }
    OUT.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def _fleet() -> Fleet:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    for name, value in asdict(Fleet()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return Fleet(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
