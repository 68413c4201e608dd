"""Check the embedded engine on this machine's CUDA device, and print how fast it decodes.

For tiny random models of each family: greedy float32 tokens through the paged
cache (mixed batch, chunked prefill, prefix reuse, eviction, a handoff between
two engines) against transformers' own `generate` on the same device.  Then the
decode rate of a random one-billion-parameter Llama in bfloat16.

    PYTHONPATH=components:tests python scripts/verify_cuda.py

Exits 1 where a token differs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from array import array
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig, Handoff
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions
from tiny_models import make_tiny_model

NEW_TOKENS = 48
KINDS = ("llama", "qwen2", "qwen3", "mistral")


def request(prompt: list[int], new_tokens: int = NEW_TOKENS) -> GenerateRequest:
    """A greedy request that runs to its length."""
    return GenerateRequest(
        request_id="verify",
        token_ids=array("I", prompt),
        sampling=Sampling(temperature=0.0),
        stops=StopConditions(max_tokens=new_tokens, ignore_eos=True),
    )


async def answer(
    engine: Engine, asked: GenerateRequest, handoff: Handoff | None = None
) -> list[int]:
    """Every token of one answer."""
    return [t async for chunk in engine.generate(asked, handoff) for t in chunk.token_ids]


def prompts() -> list[list[int]]:
    """Six prompts of different lengths, four with a common beginning."""
    random = Random(0)
    common = [random.randrange(2, 380) for _ in range(70)]
    own = [[random.randrange(2, 380) for _ in range(n)] for n in (1, 9, 40, 100, 17, 33)]
    return [common + tail for tail in own[:4]] + own[4:]


def expected(model: Any, prompt: list[int]) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([prompt], device="cuda")
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt) :]]


async def check(kind: str, directory: Path) -> int:
    """Differing answers of one family."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).cuda().eval()
    suppress = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None
    asked = prompts()
    wanted = [expected(model, prompt) for prompt in asked]
    config = EngineConfig(
        model=str(directory), device="cuda", dtype="float32", num_kv_blocks=20, max_num_tokens=64
    )
    first, second = create_engine("torch", config), create_engine("torch", config)
    await first.start()
    await second.start()
    together = await asyncio.gather(*(answer(first, request(prompt)) for prompt in asked))
    again = await asyncio.gather(*(answer(first, request(prompt)) for prompt in asked))
    moved = []
    for prompt in asked:
        prefilled = await first.prefill(request(prompt, 1))
        moved.append(await answer(second, request(prompt), prefilled.handoff))
    stats, moved_stats = first.stats(), second.stats()
    await first.close()
    await second.close()
    wrong = sum(
        got != want
        for answers in (together, again, moved)
        for got, want in zip(answers, wanted, strict=True)
    )
    print(
        f"{kind:8} {3 * len(asked) - wrong}/{3 * len(asked)} answers equal  "
        f"cached {stats.prompt_tokens_cached_total}  evicted {stats.blocks_evicted_total}  "
        f"preempted {stats.preemptions_total}  "
        f"moved {moved_stats.prompt_tokens_transferred_total} (eos {suppress} suppressed)"
    )
    return wrong


async def measure(directory: Path) -> None:
    """Print decode rates of a large random model."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    }
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)
    parameters = sum(p.numel() for p in model.parameters())
    model.save_pretrained(directory)
    del model
    torch.cuda.empty_cache()
    config = EngineConfig(
        model=str(directory), device="cuda", dtype="bfloat16", max_batch_size=64, num_kv_blocks=4096
    )
    engine = create_engine("torch", config)
    await engine.start()
    for concurrent in (1, 1, 16, 64):
        random = Random(concurrent)
        asked = [
            request([random.randrange(2, 32_000) for _ in range(256)], 128)
            for _ in range(concurrent)
        ]
        began = time.perf_counter()
        await asyncio.gather(*(answer(engine, each) for each in asked))
        seconds = time.perf_counter() - began
        print(
            f"{parameters / 1e9:.2f}B bf16, {concurrent:2} concurrent, prompt 256, output 128: "
            f"{concurrent * 128 / seconds:7.1f} tokens/s"
        )
    await engine.close()


async def main() -> int:
    """Check every family, then measure."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    wrong = 0
    with tempfile.TemporaryDirectory() as parent:
        for kind in KINDS:
            wrong += await check(kind, make_tiny_model(Path(parent) / kind, kind, seed=1))
        await measure(Path(parent) / "large")
    return 1 if wrong else 0


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    sys.exit(asyncio.run(main()))
