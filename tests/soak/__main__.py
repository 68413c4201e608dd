"""`make soak MINUTES=30 SEED=...`"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from random import SystemRandom

from soak.run import Soak

ROUND_S, FAULTS = 12.0, 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Random faults, for a while.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None, help="that of a run to be had again")
    parser.add_argument("--report", type=Path, default=Path("build/soak.json"))
    options = parser.parse_args()
    seed = SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        soak = Soak(Path(directory), seed, round_s=ROUND_S, faults=FAULTS)
        report = soak.run(60 * options.minutes, options.report)
    report.save(options.report)
    print(json.dumps(report.to_json(), indent=1))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
