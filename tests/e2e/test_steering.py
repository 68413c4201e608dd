"""Grammars, logits processors and speculation through Dynamo's frontend."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from openai_client import MODEL, Client
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
EXAMPLES = "dynamo.logits_processing.examples"
SCHEMA = {
    "type": "object",
    "properties": {"sheep": {"enum": [1, 2, 3]}, "lost": {"type": "boolean"}},
    "required": ["sheep", "lost"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "How many sheep are there, and is one lost?"}]
TOOL = {"type": "function", "function": {"name": "count", "parameters": SCHEMA}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(stack: Stack, model_dir: Path) -> Service:
    return await stack.worker(
        "worker",
        *("--model", str(model_dir), "--served-model-name", MODEL),
        *("--speculative", "ngram", "--speculative-window", "2"),
        *("--logits-processor", f"forced={EXAMPLES}:ForcedSequenceLogitsProcessor"),
        *("--logits-processor", f"temperature={EXAMPLES}:TemperatureProcessor"),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, worker: Service) -> AsyncIterator[Client]:
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    yield Client(stack, frontend, MODEL)


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_a_json_schema_is_kept_whatever_the_model_would_say(
    client: Client, seed: int | None
) -> None:
    named = {"name": "answer", "schema": SCHEMA, "strict": True}
    sampling = {} if seed is None else {"seed": seed, "temperature": 1.5}
    answer = await client.chat(
        ASK,
        max_tokens=400,
        response_format={"type": "json_schema", "json_schema": named},
        **sampling,
    )
    (choice,) = answer["choices"]

    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    assert choice["finish_reason"] == "stop"


async def test_a_json_object_is_one_as_far_as_it_goes(client: Client) -> None:
    answer = await client.chat(ASK, max_tokens=40, response_format={"type": "json_object"})

    assert answer["choices"][0]["message"]["content"].lstrip().startswith("{")


@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        ({"guided_choice": ["north", "south"]}, "north|south"),
        ({"guided_regex": "[0-9]{3} sheep"}, "[0-9]{3} sheep"),
        ({"guided_grammar": 'start: "b" ("a" | "e") "!"'}, "b(a|e)!"),
    ],
)
async def test_dynamo_s_guided_options_are_kept(
    client: Client, option: dict[str, Any], pattern: str
) -> None:
    answer = await client.complete("sheep", max_tokens=60, **option)

    assert re.fullmatch(pattern, answer["choices"][0]["text"])


async def test_a_tool_call_that_must_be_made_has_valid_arguments(client: Client) -> None:
    choice = {"type": "function", "function": {"name": "count"}}
    answer = await client.chat(ASK, max_tokens=400, tools=[TOOL], tool_choice=choice)
    message = answer["choices"][0]["message"]
    (call,) = message["tool_calls"]

    assert call["function"]["name"] == "count"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guided_json": {"type": "sheep"}}, ["guided_decoding.json", "sheep"]),
        ({"guided_regex": "(["}, ["guided_decoding.regex", "unclosed"]),
        ({"nvext": {"annotations": ["logits_processor:goat"]}}, ["'goat'", "forced, temperature"]),
        (
            {"nvext": {"annotations": ['logits_processor:temperature:{"heat": 1}']}},
            ["logits_processor:temperature", "heat"],
        ),
    ],
)
async def test_a_request_that_cannot_be_steered_so_is_refused_by_name(
    client: Client, options: dict[str, Any], words: list[str]
) -> None:
    body = {"messages": ASK, "max_tokens": 4, **options}
    status, answer = await client.post("chat/completions", body)

    assert status == 400, answer
    assert all(word in json.dumps(answer) for word in words), answer


async def test_an_annotation_names_a_processor_and_its_arguments(client: Client) -> None:
    arguments = json.dumps({"token_ids": [70, 71, 72], "eos_token_id": 1})
    annotation = f"logits_processor:forced:{arguments}"
    options = {"max_tokens": 9, "temperature": 1.0}
    forced = await client.complete("x", nvext={"annotations": [annotation]}, **options)
    again = await client.complete("y", nvext={"annotations": [annotation]}, **options)

    assert forced["choices"][0]["text"] == again["choices"][0]["text"] != ""
    assert forced["choices"][0]["finish_reason"] == "stop"


async def test_what_speculation_saved_stands_among_the_metrics(
    stack: Stack, client: Client, worker: Service
) -> None:
    await client.complete("a sheep, a sheep, a sheep, a sheep,", max_tokens=60)
    async with stack.http.get(worker.url + "/metrics") as response:
        metrics = await response.text()
    counted = re.search(r"^shepherd_worker_drafted_tokens_total\S* (\S+)$", metrics, re.MULTILINE)

    assert counted is not None
    assert float(counted[1]) > 0
    assert "shepherd_worker_accepted_tokens_total" in metrics
