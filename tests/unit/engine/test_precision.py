"""Every data type answers like float32, within a stated bound, and shares no KV with another."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine_calls import Answer, ask_all, config, make_engine, make_runner, request, started
from shepherd_config import OptionError
from shepherd_worker.config import load_config
from shepherd_worker.engine.embedded.model.linear import can_quantise
from shepherd_worker.engine.embedded.model.precision import choose_precision
from shepherd_worker.errors import UnusableInputError
from tiny_models import tiny_model

CPU = torch.device("cpu")
BOUNDS = {"float32": 1e-4, "float16": 0.1, "bfloat16": 1.0, "int8": 1.0}
"""How much less likely than float32's best token, in nats, a chosen token may be to float32."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 4}
NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "int8" and not can_quantise(), reason="this CPU has no exact 8-bit products"
        ),
    )
    for name in BOUNDS
]


async def answers(dtype: str, prompts: list[list[int]]) -> list[Answer]:
    engine = make_engine("torch", config("llama", dtype=dtype, max_num_tokens=32))
    async with started(engine):
        return await ask_all(engine, [request(p, 16, logprobs=1) for p in prompts])


def float32_logprobs(prompt: list[int], output: list[int]) -> torch.Tensor:
    """What transformers says of each next token, [len(output), vocab_size]."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *output]])).logits[0]
    logprobs: torch.Tensor = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs


@pytest.mark.parametrize("dtype", NAMES)
async def test_every_chosen_token_is_about_as_likely_as_float32_s_best(dtype: str) -> None:
    random = Random(3)
    prompts = [random.choices(range(2, 300), k=length) for length in (5, 17, 40)]
    for prompt, answer in zip(prompts, await answers(dtype, prompts), strict=True):
        exact = float32_logprobs(prompt, answer.token_ids)
        chosen = exact.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
        told = torch.tensor([entry.logprob for entry in answer.logprobs])

        assert (exact.amax(1) - chosen).max() <= BOUNDS[dtype]
        assert (told - chosen).abs().max() <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", NAMES)
def test_a_block_s_size_is_that_of_its_kv(dtype: str) -> None:
    limits = config("llama", dtype=dtype)
    layers, heads, head_dim = 3, 2, 8

    assert (
        make_runner("torch", limits).load().block_bytes
        == limits.block_size * layers * 2 * heads * head_dim * BYTES[dtype]
    )


@pytest.mark.skipif(not can_quantise(), reason="this CPU has no exact 8-bit products")
def test_no_two_types_share_kv() -> None:
    prints = {
        make_runner("torch", config("llama", dtype=dtype)).load().fingerprint for dtype in BOUNDS
    }
    automatic = make_runner("torch", config("llama", dtype="auto")).load().fingerprint

    assert len(prints) == len(BOUNDS)
    assert automatic in prints


@pytest.mark.parametrize(
    ("stored", "device", "expected"),
    [
        (torch.bfloat16, "cpu", (torch.float32, "float32")),
        (None, "cpu", (torch.float32, "float32")),
        (torch.float16, "cuda", (torch.float16, "float16")),
        (None, "cuda", (torch.bfloat16, "bfloat16")),
    ],
)
def test_what_auto_takes(stored: Any, device: str, expected: tuple[torch.dtype, str]) -> None:
    chosen = choose_precision("auto", stored, torch.device(device))

    assert (chosen.dtype, chosen.weights) == expected


def test_int8_on_a_gpu_says_what_to_use_instead() -> None:
    with pytest.raises(UnusableInputError) as failed:
        choose_precision("int8", None, torch.device("cuda"))

    assert str(failed.value) == (
        "dtype='int8' is for the CPU, not for cuda: use bfloat16 or float16"
    )


def test_a_type_that_is_none_names_those_that_are() -> None:
    with pytest.raises(OptionError) as failed:
        load_config(["--model", "m", "--dtype", "int4"], {})

    assert "--dtype" in str(failed.value)
    assert "int8" in str(failed.value)
