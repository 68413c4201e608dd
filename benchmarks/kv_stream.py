"""The KV event stream beside vLLM's form of it: msgpack over ZMQ, one message a batch.

    make bench NAME=kv_stream
    python -m benchmarks.kv_stream --section decoding --rounds 1

The peer is written here with msgspec in the shape of vLLM's events and publisher
(tagged maps in an array, three frames, a ring that a ROUTER replays), because
vLLM itself takes a gigabyte to install.  Both have the same blocks to tell.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import kv_sections
from benchmarks.composed import run

if __name__ == "__main__":
    run("benchmarks.kv_stream", kv_sections, Path("build/bench/kv-stream.json"))
