"""Give blocks that leave the device a second home: the A, B, A, B experiment.

Two long prompts take turns in a device cache that holds only one of them.  Alone,
each visit drives the other prompt out and computes everything again.  With a host
tier the blocks move to host memory instead, and come back on a hit.  The model is
random and made on the spot; times depend on the machine.

Expected output, with other times:

    no host tier
      A       0 of 1000 tokens were cached     148 ms
      B       0 of 1000 tokens were cached     168 ms
      A       0 of 1000 tokens were cached     974 ms
      B       0 of 1000 tokens were cached    1524 ms
      hit rate 0%, 0 blocks came back
    32 MiB of host memory
      A       0 of 1000 tokens were cached    1260 ms
      B       0 of 1000 tokens were cached     892 ms
      A     992 of 1000 tokens were cached      60 ms
      B     992 of 1000 tokens were cached      48 ms
      hit rate 50%, 124 blocks came back
    the last two visits were 22.9 times as fast

    python examples/02_host_tier.py
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from array import array
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions

PROMPT_TOKENS, VOCABULARY = 1000, 1000


def make_model(directory: str) -> None:
    """A random Llama of a few million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


async def visit(engine: Engine, name: str) -> float:
    """Ask prompt A or B for one token; the seconds that took."""
    random = Random(name)  # noqa: S311 - tokens, not secrets
    request = GenerateRequest(
        request_id=name,
        token_ids=array("I", random.choices(range(VOCABULARY), k=PROMPT_TOKENS)),
        sampling=Sampling(temperature=0.0),
        stops=StopConditions(max_tokens=1, ignore_eos=True),
    )
    began = time.perf_counter()
    chunks = [chunk async for chunk in engine.generate(request)]
    seconds = time.perf_counter() - began
    usage = chunks[-1].usage
    assert usage is not None
    cached = f"{usage.cached_tokens:6} of {usage.prompt_tokens} tokens were cached"
    print(f"  {name}  {cached}  {seconds * 1000:6.0f} ms")
    return seconds


async def alternate(model: str, host_cache_size: int) -> list[float]:
    """A, B, A, B in an engine of its own; the seconds of each visit."""
    engine = create_engine(
        "torch",
        EngineConfig(model=model, device="cpu", num_kv_blocks=63, host_cache_size=host_cache_size),
    )
    await engine.start()
    seconds = [await visit(engine, name) for name in "ABAB"]
    stats = engine.stats()
    hit_rate = stats.prompt_tokens_cached_total / stats.prompt_tokens_total
    print(f"  hit rate {hit_rate:.0%}, {stats.blocks_onboarded_total} blocks came back")
    await engine.close()
    return seconds


async def main() -> None:
    """The experiment, without a host tier and with one."""
    with tempfile.TemporaryDirectory() as model:
        make_model(model)
        print("no host tier")
        without = await alternate(model, 0)
        print("32 MiB of host memory")
        with_tier = await alternate(model, 32 << 20)
    faster = sum(without[2:]) / sum(with_tier[2:])
    print(f"the last two visits were {faster:.1f} times as fast")


if __name__ == "__main__":
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    asyncio.run(main())
