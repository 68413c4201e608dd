"""Guided decoding and logits processors reach TensorRT-LLM's sampler and decide what it answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer

from engine_calls import Answer, ask, ask_all, config, request, started
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import FinishReason, GuidedDecoding, ProcessorCall, Sampling
from tiny_models import tiny_model
from trtllm_fake import VERSIONS, use_fake_trtllm

TOKENIZER: Tokenizer = Tokenizer.from_file(str(tiny_model("qwen2") / "tokenizer.json"))
SCHEMA = {
    "type": "object",
    "properties": {"lamb": {"type": "boolean"}, "flock": {"enum": ["north", "south"]}},
    "required": ["lamb", "flock"],
    "additionalProperties": False,
}
PROMPT = [5, 6, 7, 5, 6]


class Favour:
    """Makes one token the likeliest, and sees the text so far."""

    def __init__(self, token_id: int) -> None:
        self._token_id = token_id

    def __call__(self, input_ids: Sequence[int], logits: torch.Tensor) -> None:
        assert list(input_ids[: len(PROMPT)]) == PROMPT
        logits[self._token_id + len(input_ids) - len(PROMPT)] += 1e6


def engine(version: str = "1.3.0rc20", **options: Any) -> Engine:
    use_fake_trtllm(version)
    loaded = (f"favour={__name__}:Favour",)
    return create_engine("trtllm", config(logits_processors=loaded, **options))


def text(answer: Answer) -> str:
    decoded: str = TOKENIZER.decode(answer.token_ids)
    return decoded


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_schema_is_kept_however_the_answer_is_sampled(version: str) -> None:
    guided = GuidedDecoding("json", json.dumps(SCHEMA))
    made = engine(version)
    hot = Sampling(temperature=2.0, seed=3)
    async with started(made):
        calls = [
            request([*PROMPT, 9], 200, guided=guided, ignore_eos=False, sampling=sampling)
            for sampling in (Sampling(temperature=0), hot)
        ]
        answers = await ask_all(made, calls)

    for answer in answers:
        jsonschema.validate(json.loads(text(answer)), SCHEMA)
        assert answer.finish_reason in {FinishReason.EOS, FinishReason.STOP}


@pytest.mark.parametrize(
    ("guided", "pattern"),
    [
        (GuidedDecoding("choice", '["north (up)", "south"]'), r"north \(up\)|south"),
        (GuidedDecoding("regex", "[0-9]{3} sheep"), "[0-9]{3} sheep"),
        (GuidedDecoding("grammar", 'start: "b" ("a" | "e") "!"'), "b(a|e)!"),
    ],
)
async def test_every_other_kind_is_kept_too(guided: GuidedDecoding, pattern: str) -> None:
    made = engine()
    async with started(made):
        answer = await ask(made, request(PROMPT, 60, guided=guided, ignore_eos=False))

    assert re.fullmatch(pattern, text(answer))


async def test_a_processor_decides_every_token_and_concerns_its_request_alone() -> None:
    made = engine()
    async with started(made):
        plain = await ask(made, request(PROMPT, 5))
        calls = [
            request(PROMPT, 5, logits_processors=(ProcessorCall("favour", {"token_id": first}),))
            for first in (40, 60)
        ]
        steered = await ask_all(made, calls)
        after = await ask(made, request(PROMPT, 5))

    assert [answer.token_ids for answer in steered] == [[*range(40, 45)], [*range(60, 65)]]
    assert after.token_ids == plain.token_ids


async def test_dynamo_s_test_hook_answers_hello_world() -> None:
    made = engine(test_logits_processor=True)
    async with started(made):
        answer = await ask(made, request(PROMPT, 40, ignore_eos=False))

    assert text(answer) == "Hello world!"


async def test_guided_decoding_without_a_backend_is_refused_before_the_engine_sees_it() -> None:
    made = engine(trtllm=TrtllmOptions(guided_decoding_backend="none"))
    async with started(made):
        with pytest.raises(InvalidRequestError, match="--guided-decoding-backend is none"):
            await ask(made, request(PROMPT, guided=GuidedDecoding("regex", "a")))
