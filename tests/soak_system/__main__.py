"""`make soak-system MINUTES=30 SEED=...`"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

from soak_system.run import Soak

ROUND_S, FAULTS, CLIENTS = 20.0, 3, 8


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak_system", description="Random faults, for a while.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="that of a run to be had again")
    parser.add_argument("--report", type=Path, default=Path("build/soak-system.json"))
    parser.add_argument("--keep", type=Path, default=None, help="directory for logs and archive")
    options = parser.parse_args()
    seed = SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-system-") as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        soak = Soak(directory, seed, round_s=ROUND_S, faults=FAULTS, clients=CLIENTS)
        report = asyncio.run(
            soak.run(60 * options.minutes, lambda known: known.save(options.report))
        )
    report.save(options.report)
    print(json.dumps(report.to_json(), indent=1))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
