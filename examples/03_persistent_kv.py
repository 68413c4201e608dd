"""Keep KV blocks beyond the engine that computed them.

The same question of 1,000 tokens is asked of two engines, one after the other,
that share nothing but a directory; they might as well be two processes.  The first
computes the prompt and saves its blocks.  The second finds all of them and computes
only the last 8 tokens, because a model must see at least one to go on.  The model is
random and made on the spot; times depend on the machine.

Expected output, with other times:

    first engine
         0 of 1000 prompt tokens came from the directory, 1000 were computed
      first token after     912 ms
      63 blocks were saved
    second engine
       992 of 1000 prompt tokens came from the directory, 8 were computed
      first token after      31 ms
      0 blocks were saved
    the same answer: yes

    python examples/03_persistent_kv.py
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions

PROMPT_TOKENS, NEW_TOKENS, VOCABULARY = 1000, 16, 1000
LAYERS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 4, 4, 32, 16
BLOCK_BYTES = LAYERS * 2 * BLOCK_SIZE * KV_HEADS * HEAD_DIM * 4


@dataclass(frozen=True)
class Answer:
    """What one engine made of the question."""

    tokens: list[int]
    first_token_s: float


def make_model(directory: str) -> None:
    """A random Llama of a few million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=2048,
        initializer_range=0.2,  # so that the answer varies
    )
    LlamaForCausalLM(config).save_pretrained(directory)


async def ask(engine: Engine, num_prompt: int, num_new: int) -> Answer:
    """Ask what is the same for every engine: a prompt of random tokens."""
    random = Random(num_prompt)  # noqa: S311 - tokens, not secrets
    request = GenerateRequest(
        request_id="question",
        token_ids=array("I", random.choices(range(VOCABULARY), k=num_prompt)),
        sampling=Sampling(temperature=0.0),
        stops=StopConditions(max_tokens=num_new, ignore_eos=True),
    )
    began, first_token_s = time.perf_counter(), 0.0
    tokens: list[int] = []
    async for chunk in engine.generate(request):
        first_token_s = first_token_s or time.perf_counter() - began
        tokens += chunk.token_ids
    return Answer(tokens, first_token_s)


async def serve_once(name: str, model: str, kv: str) -> Answer:
    """Start an engine, ask the question, and tell what came of it."""
    config = EngineConfig(
        model=model,
        block_size=BLOCK_SIZE,
        device="cpu",
        dtype="float32",
        num_kv_blocks=80,
        kv_connector=f"disk:{kv}",
    )
    engine = create_engine("torch", config)
    await engine.start()
    await ask(engine, 4, 2)  # the first pass of an engine is slow
    answer = await ask(engine, PROMPT_TOKENS, NEW_TOKENS)
    await engine.drain()  # returns when the blocks are saved
    stats = engine.stats()
    await engine.close()
    assert stats.kv_store is not None
    loaded = stats.prompt_tokens_loaded_total
    computed = PROMPT_TOKENS - loaded
    print(f"{name} engine")
    print(f"  {loaded:4} of 1000 prompt tokens came from the directory, {computed} were computed")
    print(f"  first token after  {answer.first_token_s * 1000:6.0f} ms")
    print(f"  {stats.kv_store.saved_bytes_total // BLOCK_BYTES} blocks were saved")
    return answer


async def main() -> None:
    """Two engines, one directory."""
    with tempfile.TemporaryDirectory() as parent:
        model, kv = str(Path(parent) / "model"), str(Path(parent) / "kv")
        make_model(model)
        first = await serve_once("first", model, kv)
        second = await serve_once("second", model, kv)
    print(f"the same answer: {'yes' if first.tokens == second.tokens else 'no'}")


if __name__ == "__main__":
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    asyncio.run(main())
