"""What the gateway costs beside Dynamo's frontend alone, what a NOTICE saves, and what is recalled.

    make bench NAME=gateway
    python -m benchmarks.gateway --section latency --rounds 5

Everything is real: frontend, worker, memory service and gateway are processes of this machine.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import gateway_sections
from benchmarks.composed import run

if __name__ == "__main__":
    run("benchmarks.gateway", gateway_sections, Path("build/bench/gateway.json"))
