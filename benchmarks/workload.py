"""What is measured: a random model, prompts, and when each token came.

The model is a Llama that never ends by itself, of about 100 million float32
parameters unless said otherwise.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions

VOCABULARY = 32_000


@dataclass(frozen=True, slots=True)
class Timing:
    """When the tokens of requests that were submitted together came, in seconds from then."""

    times: tuple[tuple[float, ...], ...]
    """Per request, of each new token."""

    @property
    def ttft(self) -> float:
        """Mean time to the first token."""
        return statistics.mean(times[0] for times in self.times)

    @property
    def end(self) -> float:
        """When the last token came."""
        return max(times[-1] for times in self.times)

    @property
    def total(self) -> float:
        """New tokens per second, from submission to the end."""
        return sum(map(len, self.times)) / self.end

    @property
    def decode(self) -> float:
        """New tokens per second while every request decodes: no prompt is computed meanwhile.

        Raises:
            ValueError: there was no such time, because a request ended before another began.
        """
        start = max(times[0] for times in self.times)
        stop = min(times[-1] for times in self.times)
        if start >= stop:
            raise ValueError(f"a request ended at {stop:.3f} s, another began at {start:.3f} s")
        count = sum(start < at <= stop for times in self.times for at in times)
        return count / (stop - start)


SMALL: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}


@contextmanager
def random_model(
    shape: Mapping[str, Any] = SMALL, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Iterator[str]:
    """The directory of a model of this shape, while the block lasts; made on `device`."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **shape)
    config.eos_token_id = None
    with torch.device(device):
        model = LlamaForCausalLM(config).to(dtype)
    model.generation_config.eos_token_id = None
    with tempfile.TemporaryDirectory(prefix="shepherd-bench-") as directory:
        model.save_pretrained(Path(directory))
        del model
        yield directory


def random_prompts(count: int, length: int, seed: int, *, shared: int = 0) -> list[list[int]]:
    """Prompts of `shared` common tokens and `length` of their own."""
    random = Random(seed)  # noqa: S311 - tokens, not secrets
    beginning = random.choices(range(VOCABULARY), k=shared)
    return [beginning + random.choices(range(VOCABULARY), k=length) for _ in range(count)]


@asynccontextmanager
async def started(model: str, **limits: Any) -> AsyncIterator[Engine]:
    """The embedded engine while the block lasts; on the CPU unless said otherwise."""
    settings = {"device": "cpu", "dtype": "float32", "max_seq_len": 2048, **limits}
    engine = create_engine("torch", EngineConfig(model=model, **settings))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


GREEDY = Sampling(temperature=0.0)


async def ask(
    engine: Engine, prompts: list[list[int]], new_tokens: int, *, sampling: Sampling = GREEDY
) -> Timing:
    """Submit all prompts at once and take the answers, greedy ones by default."""
    began = time.perf_counter()

    async def one(number: int, prompt: list[int]) -> tuple[float, ...]:
        request = GenerateRequest(
            request_id=f"bench-{number}",
            token_ids=array("I", prompt),
            sampling=sampling,
            stops=StopConditions(max_tokens=new_tokens, ignore_eos=True),
        )
        times: list[float] = []
        async for chunk in engine.generate(request):
            times += [time.perf_counter() - began] * len(chunk.token_ids)
        return tuple(times)

    return Timing(tuple(await asyncio.gather(*(one(*pair) for pair in enumerate(prompts)))))
