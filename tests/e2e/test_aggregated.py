"""One aggregated worker behind Dynamo's frontend: answers, bad input, clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from openai_client import MODEL, Client, eventually, health
from shepherd_cli.stack import Service, Stack
from shepherd_worker import schemas

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
MAX_SEQ_LEN = 512


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(stack: Stack, model_dir: Path) -> Service:
    args = ("--model", str(model_dir), "--served-model-name", MODEL)
    return await stack.worker("worker", *args, "--max-seq-len", str(MAX_SEQ_LEN))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, worker: Service) -> AsyncIterator[Client]:
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    yield Client(stack, frontend, MODEL)


async def test_a_chat_is_answered_with_usage(client: Client) -> None:
    answer = await client.chat([{"role": "user", "content": "hello"}], max_tokens=8)

    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 8
    assert answer["usage"]["prompt_tokens"] > 0


async def test_streamed_and_whole_answers_are_the_same_text(client: Client) -> None:
    whole = await client.complete("tell me a story", max_tokens=24)
    events = await client.stream("tell me a story", max_tokens=24)

    streamed = "".join(choice["text"] for event in events for choice in event.get("choices", ()))
    assert streamed == whole["choices"][0]["text"]


async def test_a_repeated_prompt_is_found_in_the_cache(client: Client) -> None:
    prompt = "the same long prompt " * 20

    first = await client.complete(prompt)
    second = await client.complete(prompt)

    assert first["choices"] == second["choices"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


async def test_a_seed_makes_sampling_repeatable(client: Client) -> None:
    options = {"temperature": 1.0, "seed": 7, "max_tokens": 24}

    first = await client.complete("once upon", **options)
    again = await client.complete("once upon", **options)
    other = await client.complete("once upon", **(options | {"seed": 8}))

    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, ["context length", str(MAX_SEQ_LEN), "tokens"]),
        ({"messages": []}, ["messages", "empty"]),
        ({"nvext": {"token_data": [1, 2, 999_999]}}, ["token_ids=999999", "below 384"]),
        ({"max_tokens": 0}, ["max tokens", "0", "greater than"]),
        ({"max_tokens": -3}, ["-3", "u32"]),
        ({"temperature": -1.0}, ["temperature", "-1", "between 0 and 2"]),
        ({"top_p": 1.5}, ["top_p", "1.5", "between 0 and 1"]),
        ({"top_k": -7}, ["top_k", "greater than or equal to -1"]),
        ({"min_p": 3}, ["min_p", "3", "between 0 and 1"]),
        ({"repetition_penalty": 0}, ["repetition penalty", "0", "between"]),
        ({"presence_penalty": 9.0}, ["presence penalty", "9", "between -2 and 2"]),
        ({"min_tokens": 50, "max_tokens": 10}, ["min_tokens=50", "max_tokens=10"]),
        ({"n": 129}, ["n must be between 1 and 128", "129"]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_bad_input_is_a_400_that_names_field_value_and_limit(
    client: Client, options: dict[str, Any], words: list[str]
) -> None:
    """The frontend refuses what it can; the rest is the worker's words, passed through."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, **options}

    status, answer = await client.post("chat/completions", body)

    assert status == 400, answer
    for word in words:
        assert word in answer["message"].lower()


async def test_an_empty_prompt_is_a_400(client: Client) -> None:
    for prompt in ("", []):
        status, answer = await client.post("completions", {"prompt": prompt})

        assert status == 400
        assert "cannot be empty" in answer["message"]


async def test_an_unknown_model_is_a_404(client: Client) -> None:
    status, answer = await client.post("completions", {"model": "nobody", "prompt": "hello"})

    assert (status, answer["message"]) == (404, "Model not found")


async def test_the_worker_is_healthy_after_bad_input(
    client: Client, stack: Stack, worker: Service
) -> None:
    await client.post("completions", {"prompt": "long " * 2000})

    report = await health(stack, worker)

    jsonschema.validate(report, schemas.schemas()["health"])
    assert (report["phase"], report["healthy"], report["role"]) == ("ready", True, "aggregated")
    assert (await client.complete("hello"))["choices"]


async def test_clients_that_leave_free_their_blocks(
    client: Client, stack: Stack, worker: Service
) -> None:
    url = f"{client.frontend.url}/v1/completions"
    body = {
        "model": MODEL,
        "prompt": "go on",
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }

    async def leave_after_three_lines() -> None:
        async with stack.http.post(url, json=body) as response:
            for _ in range(3):
                await response.content.readline()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(12):
            tasks.create_task(leave_after_three_lines())

    async def nothing_left() -> bool:
        report = await health(stack, worker)
        return (
            report["requests"]
            == {
                "in_progress": 0,
                "running": 0,
                "waiting": 0,
            }
            and not report["blocks"]["referenced"]
        )

    await eventually(nothing_left, timeout_s=10)


async def test_metrics_tell_requests_blocks_and_the_stream(
    client: Client, stack: Stack, worker: Service
) -> None:
    await client.complete("hello")
    async with stack.http.get(worker.url + "/metrics") as response:
        text = await response.text()

    for name in (
        'shepherd_worker_requests_total{outcome="ok"}',
        'shepherd_worker_requests_total{outcome="rejected"}',
        'shepherd_worker_kv_blocks{state="cached"}',
        "shepherd_worker_time_to_first_token_seconds_count",
        "shepherd_stream_frames_published_total",
        "dynamo_component_requests_total",
    ):
        assert name in text
    assert "session" not in "".join(line for line in text.splitlines() if "shepherd_" in line)


async def test_logprobs_are_reported_per_token(client: Client) -> None:
    answer = await client.chat(
        [{"role": "user", "content": "hello"}], logprobs=True, top_logprobs=3, max_tokens=4
    )

    entries = answer["choices"][0]["logprobs"]["content"]
    assert len(entries) == answer["usage"]["completion_tokens"]
    for entry in entries:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] >= entry["top_logprobs"][1]["logprob"]
