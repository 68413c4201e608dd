"""The training loop: batches to weights.

Deterministic in its data; on a GPU its sums are not, so that two runs of one
seed give models that differ in the last digits and answer alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from shepherd_tiny_chat.training.batches import Batch, Shard
from shepherd_tiny_chat.training.tokenizer import MAX_POSITIONS, VOCABULARY_SIZE

_IDS = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
_STEPS_PER_REPORT = 200


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model depends on, besides its data."""

    seed: int
    num_shards: int
    tokens_per_batch: int
    peak_learning_rate: float = 2e-3
    warmup: float = 0.02
    """Share of the training."""
    last_learning_rate: float = 0.02
    """Of the peak, at the end of the cosine."""
    weight_decay: float = 0.05


@dataclass(frozen=True, slots=True)
class Report:
    """How far the training has come."""

    step: int
    progress: float
    loss: float
    learning_rate: float
    tokens: int
    seconds: float


def new_model() -> Any:
    """The untrained model, float32."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=256,
            intermediate_size=576,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=MAX_POSITIONS,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            **_IDS,
        )
    )
    model.generation_config = GenerationConfig(**_IDS, do_sample=False)
    return model


def train(
    recipe: Recipe, shards: Iterable[Shard], device: str, report: Callable[[Report], None]
) -> Any:
    """A model that has seen every batch of the shards once; reports now and then."""
    torch.manual_seed(recipe.seed)
    torch.set_float32_matmul_precision("high")
    model = new_model().to(device)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, recipe.weight_decay), betas=(0.9, 0.95), fused=device == "cuda"
    )
    began, tokens, total, step = perf_counter(), 0, torch.zeros((), device=device), 0
    for step, (progress, batch) in enumerate(_batches(shards, recipe.num_shards), start=1):
        rate = recipe.peak_learning_rate * _schedule(recipe, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        token_ids = torch.from_numpy(batch.token_ids.astype(np.int64)).to(device)
        weights = torch.from_numpy(batch.weights.astype(np.float32)).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = _loss(model, token_ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += token_ids.numel()
        total += loss.detach()
        if step % _STEPS_PER_REPORT == 0:
            mean = total.item() / _STEPS_PER_REPORT
            report(Report(step, progress, mean, rate, tokens, perf_counter() - began))
            total.zero_()
    return model


def as_log(report: Report) -> dict[str, float]:
    """A report's rounded fields."""
    return {key: round(value, 5) for key, value in asdict(report).items()}


def _loss(model: Any, token_ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=token_ids[:, :-1], use_cache=False).logits.flatten(0, 1)
    each = torch.nn.functional.cross_entropy(
        logits.float(), token_ids[:, 1:].flatten(), reduction="none"
    )
    wanted = weights[:, 1:].flatten()
    return (each * wanted).sum() / wanted.sum()


def _batches(shards: Iterable[Shard], num_shards: int) -> Iterator[tuple[float, Batch]]:
    """Every batch with the share of the training that lies before it."""
    for number, shard in enumerate(shards):
        for place, batch in enumerate(shard.batches):
            yield (number + place / len(shard.batches)) / num_shards, batch


def _schedule(recipe: Recipe, progress: float) -> float:
    """Linear warm-up, then half a cosine."""
    if progress < recipe.warmup:
        return (progress + 0.01 * recipe.warmup) / recipe.warmup
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.last_learning_rate + (1 - recipe.last_learning_rate) * cosine


def _parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
