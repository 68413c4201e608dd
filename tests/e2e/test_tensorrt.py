"""TensorRT-LLM's adapter behind Dynamo's frontend, over a fake TensorRT-LLM that runs a real model."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openai_client import MODEL, Client, eventually, health
from shepherd_cli.stack import Service, Stack
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE as QUESTIONS
from trtllm_fake import fake_environment

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
LATEST = "1.3.0rc26"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(stack: Stack, model_dir: Path) -> Service:
    args = ("--model", str(model_dir), "--served-model-name", MODEL)
    forced = "forced=dynamo.logits_processing.examples:ForcedSequenceLogitsProcessor"
    steering = ("--logits-processor", forced)
    return await stack.worker("trtllm", *args, *steering, env=fake_environment())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, worker: Service) -> AsyncIterator[Client]:
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    yield Client(stack, frontend, MODEL)


async def test_a_prompt_is_answered_and_found_in_the_cache_the_second_time(client: Client) -> None:
    prompt = "the same long prompt " * 20

    first = await client.complete(prompt)
    second = await client.complete(prompt)

    assert first["choices"] == second["choices"]
    assert first["choices"][0]["finish_reason"] in {"length", "stop"}
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


async def test_bad_input_is_a_400_and_the_worker_goes_on(client: Client) -> None:
    status, answer = await client.post("completions", {"prompt": "long " * 2000})

    assert status == 400
    assert "context length" in answer["message"].lower()
    assert (await client.complete("hello"))["choices"]


async def test_several_choices_are_answered_together_and_beside_one_another(
    client: Client,
) -> None:
    hot = {"temperature": 1.5, "seed": 3, "max_tokens": 12, "ignore_eos": True}
    answer = await client.complete("tell me", n=3, **hot)
    events = await client.stream("tell me", n=3, **hot)
    streamed = dict.fromkeys(range(3), "")
    for choice in (choice for event in events for choice in event["choices"]):
        streamed[choice["index"]] += choice["text"]

    best = await client.complete("tell me", n=2, best_of=3, **hot)
    texts = {choice["index"]: choice["text"] for choice in answer["choices"]}
    assert texts == streamed
    assert len(set(texts.values())) == 3
    assert answer["usage"]["completion_tokens"] == 36
    assert {choice["text"] for choice in best["choices"]} < set(texts.values())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt_logprobs": 2}, "prompt_logprobs=2 is not valid: expected none"),
        ({"n": 129}, "n must be between 1 and 128"),
        ({"best_of": 3}, "`best_of`"),
        ({"use_beam_search": True}, "`use_beam_search`"),
        ({"length_penalty": 0.5}, "`length_penalty`"),
    ],
)
async def test_what_dynamo_cannot_bring_back_is_a_400_that_says_so(
    client: Client, asked: dict[str, Any], words: str
) -> None:
    """All but the first are refused by Dynamo's frontend itself."""
    body = {"messages": [{"role": "user", "content": "hello"}], **asked}
    status, answer = await client.post("chat/completions", body)

    assert status == 400, answer
    assert words in answer["message"]


async def test_what_the_worker_refuses_in_a_completion_is_never_answered(client: Client) -> None:
    """Dynamo 1.4.2 makes a 500 without the reason of what is a 400 in chat."""
    for refused in ({"prompt_logprobs": 2}, {"echo": True, "logprobs": 1}):
        status, answer = await client.post("completions", {"prompt": "hello", **refused})
        assert (status, "choices" in answer) == (500, False)


async def test_answers_are_steered_by_schemas_and_processors(client: Client) -> None:
    asked = [{"role": "user", "content": "north or south?"}]
    schema = {"name": "way", "schema": {"enum": ["north", "south"]}, "strict": True}
    shape = {"type": "json_schema", "json_schema": schema}
    kept = await client.chat(asked, max_tokens=60, response_format=shape)
    arguments = json.dumps({"token_ids": [70, 71, 72], "eos_token_id": 1})
    annotation = {"annotations": [f"logits_processor:forced:{arguments}"]}
    forced = [await client.complete(word, max_tokens=9, nvext=annotation) for word in ("x", "y")]

    assert json.loads(kept["choices"][0]["message"]["content"]) in {"north", "south"}
    assert forced[0]["choices"] == forced[1]["choices"]
    assert forced[0]["choices"][0]["finish_reason"] == "stop"


async def test_engines_that_were_built_ahead_are_served(
    stack: Stack, client: Client, model_dir: Path, tmp_path: Path
) -> None:
    """The frontend is told the tokenizer's directory: a built engine has none."""
    settings = {
        "pretrained_config": {"vocab_size": 384},
        "build_config": {"max_seq_len": 256, "max_batch_size": 8},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "rank0.engine").write_bytes(b"engine")
    args = ("--engine-dir", str(tmp_path), "--tokenizer", str(model_dir))
    where = ("--served-model-name", "built", "--component", "built")
    await stack.worker("built", *args, *where, env=fake_environment("1.2.0"))
    await stack.model_served(client.frontend, "built")
    built = Client(stack, client.frontend, "built")

    assert await built.complete("hello", max_tokens=9) | {"id": "", "created": 0, "model": ""} == (
        await client.complete("hello", max_tokens=9) | {"id": "", "created": 0, "model": ""}
    )


async def test_clients_that_leave_free_their_places(
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
        for _ in range(6):
            tasks.create_task(leave_after_three_lines())

    async def nothing_left() -> bool:
        report = await health(stack, worker)
        return not any(report["requests"].values()) and not report["blocks"]["referenced"]

    await eventually(nothing_left, timeout_s=10)


async def test_metrics_show_the_engines_own_beside_ours(
    client: Client, stack: Stack, worker: Service
) -> None:
    await client.complete("hello")
    async with stack.http.get(worker.url + "/metrics") as response:
        text = await response.text()

    for name in (
        'shepherd_worker_kv_blocks{state="cached"}',
        "shepherd_trtllm_events_lost_total 0",
        "trtllm_request_success_total",
        "trtllm_kv_cache_utilization",
    ):
        assert name in text


async def test_greedy_text_is_the_same_when_prompts_are_computed_elsewhere(
    client: Client, stack: Stack, model_dir: Path
) -> None:
    """The two sides run different release candidates: what one does not know is dropped."""
    split = ("--model", str(model_dir), "--served-model-name", "split")
    async with asyncio.TaskGroup() as tasks:
        decodes = ("--component", "split", "--role", "decode")
        prefills = ("--component", "split-prefill", "--role", "prefill")
        prefill = stack.worker("split-prefill", *split, *prefills, env=fake_environment(LATEST))
        tasks.create_task(prefill)
        decode = tasks.create_task(
            stack.worker("split-decode", *split, *decodes, env=fake_environment())
        )
    await stack.model_served(client.frontend, "split")
    disaggregated = Client(stack, client.frontend, "split")
    prompts = [f"question {n}: " + "tell me about the sheep " * (3 + n) for n in range(4)]

    for prompt in prompts:
        whole = await client.complete(prompt, max_tokens=24)
        divided = await disaggregated.complete(prompt, max_tokens=24)
        assert divided["choices"][0]["text"] == whole["choices"][0]["text"]
    async with stack.http.get(decode.result().url + "/metrics") as response:
        text = await response.text()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    remote = 'shepherd_worker_prompt_tokens_total{source="remote"}'
    assert float(values[remote]) > 0
    assert float(values["shepherd_worker_kv_transfer_failures_total"]) == 0


async def test_what_a_cache_forgets_memory_has_word_for_word(
    stack: Stack, client: Client, tiny_chat_model: Path
) -> None:
    """The engine tells hexadecimal hashes and partial blocks; turns come out whole."""
    cache = ("--num-kv-blocks", "14", "--max-seq-len", "208", "--component", "chat")
    args = ("--model", str(tiny_chat_model), "--served-model-name", "chat", *cache)
    await stack.worker("chat", *args, env=fake_environment(LATEST))
    memory = await stack.memory("--components", "chat")
    await stack.model_served(client.frontend, "chat")
    chat = Client(stack, client.frontend, "chat")
    said: dict[str, list[dict[str, str]]] = {}
    for number in range(5):
        messages = said[f"session-{number}"] = list[dict[str, str]]()
        for turn in range(2):
            question, _ = QUESTIONS[(number * 2 + turn) % len(QUESTIONS)]
            messages.append({"role": "user", "content": question})
            answer = await chat.chat(messages, session=f"session-{number}", max_tokens=48)
            content = answer["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": content})

    async def archived() -> Any:
        url = f"{memory.url}/v1/sessions/session-0/turns"
        async with stack.http.get(url) as response:
            turns = (await response.json())["turns"] if response.status == 200 else []
        return [turn["messages"] for turn in turns if turn["state"] == "archived"]

    assert await eventually(archived) == [said["session-0"][:2]]


async def test_streams_that_run_at_sigterm_all_finish(
    stack: Stack, client: Client, worker: Service
) -> None:
    options = {"max_tokens": 400, "ignore_eos": True}

    async def all_run() -> bool:
        return bool((await health(stack, worker))["requests"]["in_progress"] == 6)

    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(client.stream("count", **options)) for _ in range(6)]
        await eventually(all_run)
        worker.process.signal(signal.SIGTERM)

    for stream in streams:
        assert stream.result()[-1]["choices"][0]["finish_reason"] == "length"
    async with asyncio.timeout(20):
        assert await worker.process.wait() == 0
