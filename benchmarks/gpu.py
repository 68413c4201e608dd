"""The embedded engine on a CUDA device, beside transformers' continuous batching and the memory's speed.

Random bfloat16 Llamas of the usual shapes; prompts of 256 tokens without a common
beginning, 128 new tokens each, 1 and 64 requests submitted at once.

    decode    new tokens per second while every request decodes
    ttft      mean time to the first token
    bound     what reading weights and KV once per step would allow, at the speed
              at which this device sums a large tensor

    python -m benchmarks.gpu --shape 1b --shape 8b --rounds 3 [--torch-compile]

Each round runs the peer and then ours; quoted are medians over the rounds.
Writes build/bench/gpu.json, a list of `figure.Figure`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import transformers_peers as peers
from benchmarks.figure import Figure, compare, machine, told, write
from benchmarks.workload import Timing, ask, random_model, random_prompts, started

OUT = Path("build/bench/gpu.json")
PROMPT, NEW = 256, 128
CONCURRENT = (1, 64)
NUM_TOKENS = 65_536
OURS, BATCHING = "ours", "transformers continuous batching"
BOUND_GOALS = {1: 0.6}
PEER_GOALS = {64: 2.0}
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}

Taken = dict[tuple[str, int], list[Timing]]


def figures(shape: str, rounds: int, *, torch_compile: bool) -> list[Figure]:
    """Ours, the peer and the bound for a model of this shape."""
    with random_model(SHAPES[shape], dtype=torch.bfloat16, device="cuda") as directory:
        model = peers.load(directory, dtype=torch.bfloat16, device="cuda")
        read_bytes = _weight_bytes(model)
        taken = asyncio.run(_measure(directory, model, rounds, torch_compile=torch_compile))
    return [
        row
        for concurrent in CONCURRENT
        for row in _rows(shape, concurrent, taken, read_bytes + _kv_bytes(shape, concurrent))
    ]


async def _measure(directory: str, model: Any, rounds: int, *, torch_compile: bool) -> Taken:
    taken: Taken = defaultdict(list)
    batching = peers.ContinuousBatching(
        model,
        num_tokens=NUM_TOKENS,
        max_batch_size=max(CONCURRENT),
        max_batch_tokens=2048,
        page_size=256,
    )
    limits = {
        "device": "cuda",
        "dtype": "bfloat16",
        "num_kv_blocks": NUM_TOKENS // 16,
        "max_batch_size": max(CONCURRENT),
        "max_num_tokens": 2048,
        "torch_compile": torch_compile,
    }
    async with started(directory, **limits) as engine:
        for n in CONCURRENT:
            warmup = random_prompts(n, PROMPT, seed=5 + n)
            await asyncio.to_thread(batching.ask, warmup, NEW)
            await ask(engine, warmup, NEW)
        for round_ in range(rounds):
            for n in CONCURRENT:
                prompts = random_prompts(n, PROMPT, seed=1000 * round_ + n)
                taken[BATCHING, n].append(await asyncio.to_thread(batching.ask, prompts, NEW))
                taken[OURS, n].append(await ask(engine, prompts, NEW))
    batching.close()
    return taken


def _rows(shape: str, concurrent: int, taken: Taken, step_bytes: float) -> list[Figure]:
    ours, peer = taken[OURS, concurrent], taken[BATCHING, concurrent]
    decode = [timing.decode for timing in ours]
    bounds = [concurrent * speed / step_bytes for speed in _read_bytes_per_s(len(ours))]
    return [
        compare(
            f"{shape} decode at {concurrent}",
            decode,
            [timing.decode for timing in peer],
            peer_name=BATCHING,
            unit="tokens/s",
            goal=PEER_GOALS.get(concurrent),
        ),
        compare(
            f"{shape} ttft at {concurrent}",
            [timing.ttft for timing in ours],
            [timing.ttft for timing in peer],
            peer_name=BATCHING,
            unit="s",
            less_is_better=True,
        ),
        compare(
            f"{shape} decode at {concurrent} to its bound",
            decode,
            bounds,
            peer_name="memory bandwidth",
            unit="tokens/s",
            goal=BOUND_GOALS.get(concurrent),
        ),
    ]


def _weight_bytes(model: Any) -> int:
    """What every step reads: all weights but the embeddings, of which it reads a row per token."""
    embeddings = model.get_input_embeddings().weight
    return sum(p.nbytes for p in model.parameters() if p is not embeddings)


def _kv_bytes(shape: str, concurrent: int) -> float:
    """KV of all sequences in the middle of their answers."""
    sizes = SHAPES[shape]
    head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
    token: int = 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * head_dim * 2
    return concurrent * token * (PROMPT + NEW / 2)


def _read_bytes_per_s(rounds: int) -> list[float]:
    """How fast the device reads memory that no cache holds; one value a round, each of 5 sums."""
    block = torch.ones(2**31, dtype=torch.bfloat16, device="cuda")
    block.sum()
    return [
        statistics.median(block.nbytes / _seconds(block) for _ in range(5)) for _ in range(rounds)
    ]


def _seconds(block: torch.Tensor) -> float:
    began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    began.record()
    block.sum()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000


def main() -> None:
    """Run the shapes that were asked for, and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: 1b")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--torch-compile", action="store_true", help="as the engine's option")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    print(torch.cuda.get_device_name(), machine(), flush=True)
    rows: list[Figure] = []
    for shape in options.shape or ["1b"]:
        for row in figures(shape, options.rounds, torch_compile=options.torch_compile):
            print(f"  {told(row)}", flush=True)
            rows.append(row)
    write(rows, OUT)


if __name__ == "__main__":
    main()
