"""The memory service beside the keyword memory that it goes back to.

    make bench NAME=memory
    python -m benchmarks.memory --section archiving --rounds 1

How good the answers are is told by benchmarks/retrieval.py, which needs a data set.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import memory_sections
from benchmarks.composed import run

if __name__ == "__main__":
    run("benchmarks.memory", memory_sections, Path("build/bench/memory.json"))
