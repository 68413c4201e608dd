"""What transformers' own `generate` answers, greedily and in float32."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tiny_models import Kind, tiny_model


@functools.cache
def reference(kind: Kind) -> Any:
    """The tiny model of this kind as transformers loads it; not to be changed."""
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(tiny_model(kind), dtype=torch.float32).eval()


@functools.cache
def generated(kind: Kind, prompt: tuple[int, ...], length: int) -> list[int]:
    """The tokens that follow a prompt."""
    with torch.inference_mode():
        tokens = reference(kind).generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    answer: list[int] = tokens[0, len(prompt) :].tolist()
    return answer
