"""The embedded engine against transformers' `generate`, on this machine's CPU.

A random Llama-type model of about 100 million float32 parameters; prompts of 256
tokens without a common beginning, 64 new tokens, 1, 8 and 32 requests at once.
Every round runs the peer and then ours; quoted are medians over the rounds.

    total     new tokens per second from submission to the end
    decode    new tokens after each request's first, per second from the mean time of
              the first tokens to the end; ours computes later prompts meanwhile
    ttft      mean time to the first token; all of a `generate` batch come together
    reuse     32 prompts with a common beginning of 1,000 tokens against 32 without

    make bench NAME=engine

Writes build/bench/engine.json: a list of {figure, ours, peer, peer_name, ratio,
unit, spread, goal, met}; `spread` is ours, lowest and highest.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from array import array
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions

ROUNDS = 3
PROMPT, NEW, SHARED = 256, 64, 1000
CONCURRENT = (1, 8, 32)
VOCABULARY = 32_000
GOALS = {("decode", 8): 1.5, ("decode", 32): 1.5, ("ttft", 8): 1.5, ("ttft", 32): 2.0}
REUSE_GOAL = 4.0
OUT = Path("build/bench/engine.json")


@dataclass(frozen=True, slots=True)
class Timing:
    """One batch of requests, in seconds from its submission."""

    first_tokens: tuple[float, ...]
    end: float

    @property
    def ttft(self) -> float:
        """Mean time to the first token."""
        return statistics.mean(self.first_tokens)

    @property
    def total(self) -> float:
        """All new tokens, per second."""
        return len(self.first_tokens) * NEW / self.end

    @property
    def decode(self) -> float:
        """Tokens after the first ones, per second from the mean first one on."""
        return len(self.first_tokens) * (NEW - 1) / (self.end - self.ttft)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the result; a ratio above 1 is in our favour."""

    figure: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str
    spread: tuple[float, float]
    goal: float | None
    met: bool | None


def make_model(directory: Path) -> None:
    """Write the random model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    config.eos_token_id = None
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)


def make_prompts(count: int, seed: int, shared: int = 0) -> list[list[int]]:
    """Random prompts, with a common beginning of `shared` tokens before their own."""
    random = Random(seed)  # noqa: S311  no secret
    beginning = [random.randrange(VOCABULARY) for _ in range(shared)]
    own = [[random.randrange(VOCABULARY) for _ in range(PROMPT)] for _ in range(count)]
    return [beginning + rest for rest in own]


async def run_ours(engine: Engine, prompts: list[list[int]], new_tokens: int = NEW) -> Timing:
    """Submit all prompts at once to the engine."""
    began = time.perf_counter()
    first: list[float] = []

    async def one(prompt: list[int]) -> None:
        request = GenerateRequest(
            request_id="bench",
            token_ids=array("I", prompt),
            sampling=Sampling(temperature=0.0),
            stops=StopConditions(max_tokens=new_tokens, ignore_eos=True),
        )
        told = False
        async for chunk in engine.generate(request):
            if chunk.token_ids and not told:
                first.append(time.perf_counter() - began)
                told = True

    await asyncio.gather(*(one(prompt) for prompt in prompts))
    return Timing(tuple(first), time.perf_counter() - began)


class FirstToken(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]
    """Hears when `generate` has the first new tokens of a batch."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._seen = 0

    def put(self, value: Any) -> None:
        """Called with the prompts first, then with every step's tokens."""
        del value
        self._seen += 1
        if self._seen == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Called once, after the last token."""


def run_generate(model: Any, prompts: list[list[int]]) -> Timing:
    """One batched `generate`."""
    ids = torch.tensor(prompts)
    hears = FirstToken()
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            streamer=hears if len(prompts) == 1 else None,
        )
    end = time.perf_counter() - began
    first = (hears.at or 0.0) - began if len(prompts) == 1 else run_first(model, ids)
    return Timing((first,) * len(prompts), end)


def run_first(model: Any, ids: torch.Tensor) -> float:
    """Seconds that `generate` takes for one new token; its streamer takes no batches."""
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - began


def figure(
    name: str, ours: list[float], peer: list[float], unit: str, goal: float | None
) -> Figure:
    """Medians and their ratio; less is better for seconds."""
    mine, theirs = statistics.median(ours), statistics.median(peer)
    ratio = theirs / mine if unit == "s" else mine / theirs
    spread = (round(min(ours), 3), round(max(ours), 3))
    met = None if goal is None else ratio >= goal
    name_of_peer = "no reuse" if name.startswith("reuse") else "transformers generate"
    return Figure(
        name,
        round(mine, 3),
        round(theirs, 3),
        name_of_peer,
        round(ratio, 2),
        unit,
        spread,
        goal,
        met,
    )


async def compare(engine: Engine, model: Any) -> list[Figure]:
    """Decode rate and time to first token, ours and the peer's, round by round."""
    ours: dict[int, list[Timing]] = defaultdict(list)
    peer: dict[int, list[Timing]] = defaultdict(list)
    for round_ in range(ROUNDS):
        for concurrent in CONCURRENT:
            prompts = make_prompts(concurrent, seed=1000 * round_ + concurrent)
            peer[concurrent].append(await asyncio.to_thread(run_generate, model, prompts))
            ours[concurrent].append(await run_ours(engine, prompts))
    rows = []
    for concurrent in CONCURRENT:
        for name, unit in (("total", "tokens/s"), ("decode", "tokens/s"), ("ttft", "s")):
            mine = [getattr(timing, name) for timing in ours[concurrent]]
            theirs = [getattr(timing, name) for timing in peer[concurrent]]
            goal = GOALS.get((name, concurrent))
            rows.append(figure(f"{name} at {concurrent}", mine, theirs, unit, goal))
    return rows


async def compare_reuse(engine: Engine) -> Figure:
    """Prompts with a common beginning against as long ones without; 8 new tokens each."""
    with_reuse, without = [], []
    for round_ in range(ROUNDS):
        apart = [make_prompts(1, 7_000 + 100 * round_ + n, SHARED)[0] for n in range(32)]
        common = make_prompts(32, 9_000 + round_, SHARED)
        without.append((await run_ours(engine, apart, 8)).end)
        with_reuse.append((await run_ours(engine, common, 8)).end)
    return figure("reuse of 1,000 tokens at 32", with_reuse, without, "s", REUSE_GOAL)


async def main() -> None:
    """Run and report."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent)
        make_model(directory)
        model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        engine = create_engine(
            "torch",
            EngineConfig(
                model=parent, device="cpu", dtype="float32", num_kv_blocks=3200, max_seq_len=2048
            ),
        )
        await engine.start()
        await run_ours(engine, make_prompts(2, seed=5))
        rows = [*await compare(engine, model), await compare_reuse(engine)]
        await engine.close()
    report(rows)


def report(rows: list[Figure]) -> None:
    """Print the machine and every figure, and write them."""
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{ROUNDS} rounds, medians"
    )
    for row in rows:
        goal = "" if row.goal is None else f"  goal {row.goal:g}: {'met' if row.met else 'missed'}"
        print(
            f"{row.figure:28} {row.ours:9.3f} {row.unit:8}  {row.peer_name} {row.peer:9.3f}  "
            f"ratio {row.ratio:5.2f}  spread {row.spread[0]:.3f}-{row.spread[1]:.3f}{goal}"
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
