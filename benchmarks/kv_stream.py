"""The KV event stream beside vLLM's form of it, and beside Dynamo's own ZMQ publisher.

    make bench NAME=kv_stream
    python -m benchmarks.kv_stream --section decoding --rounds 1

vLLM's is written here with msgspec in the shape of its events and publisher (tagged
maps in an array, three frames, a ring that a ROUTER replays), because vLLM itself
takes a gigabyte to install; Dynamo's is the class that it ships.  All have the same
blocks to tell.  `make bench NAME=kv-stream` is the same.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import kv_sections
from benchmarks.composed import run

if __name__ == "__main__":
    run("benchmarks.kv_stream", kv_sections, Path("build/bench/kv-stream.json"))
