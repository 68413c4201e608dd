"""What the model writes as a call, a client of Dynamo's frontend gets as a tool call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from openai_client import Client
from shepherd_cli.chat import server_sent_events
from shepherd_cli.stack import Stack
from shepherd_tiny_chat import MODEL_DIR, SEARCH_MEMORY
from shepherd_tiny_chat.corpus import recall

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
ARGS = ("--model", str(MODEL_DIR), "--num-kv-blocks", "64", "--dyn-tool-call-parser", "hermes")
NOTICE = recall.notice("My cat is called Tibbles.")
ASKED: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello! How can I help you?"},
    {"role": "tool", "tool_call_id": "notice", "name": "context_eviction", "content": NOTICE},
    {"role": "user", "content": "What is the name of my cat?"},
]
WRITTEN = "<tool_call>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(stack: Stack) -> AsyncIterator[dict[str, Client]]:
    """One aggregated worker and a pair of prefill and decode."""
    await asyncio.gather(
        stack.worker("one", *ARGS, "--served-model-name", "one", "--component", "one"),
        stack.worker("prefill", *ARGS, "--served-model-name", "two", "--role", "prefill"),
        stack.worker("decode", *ARGS, "--served-model-name", "two", "--role", "decode"),
    )
    frontend = await stack.frontend()
    models = ("one", "two")
    for model in models:
        await stack.model_served(frontend, model)
    yield {model: Client(stack, frontend, model) for model in models}


def query(call: dict[str, Any]) -> str:
    assert call["type"] == "function"
    assert call["function"]["name"] == "search_memory"
    found = json.loads(call["function"]["arguments"])["query"]

    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("model", ["one", "two"])
async def test_a_call_of_the_model_is_a_tool_call(clients: dict[str, Client], model: str) -> None:
    answer = await clients[model].chat(ASKED, tools=[SEARCH_MEMORY], max_tokens=64)
    (choice,) = answer["choices"]

    assert choice["finish_reason"] == "tool_calls"
    assert "cat" in query(choice["message"]["tool_calls"][0])
    assert WRITTEN not in (choice["message"].get("content") or "")


@pytest.mark.parametrize("model", ["one", "two"])
async def test_a_streamed_call_is_a_tool_call(clients: dict[str, Client], model: str) -> None:
    client = clients[model]
    body = {"model": model, "messages": ASKED, "temperature": 0, "stream": True, "max_tokens": 64}
    url = f"{client.frontend.url}/v1/chat/completions"
    async with client.stack.http.post(url, json=body | {"tools": [SEARCH_MEMORY]}) as response:
        assert response.status == 200, await response.text()
        events = [event async for event in server_sent_events(response.content)]
    choices = [choice for event in events for choice in event["choices"]]
    calls = [call for each in choices for call in each["delta"].get("tool_calls") or ()]

    assert "cat" in query(calls[0])
    assert [each["finish_reason"] for each in choices][-1] == "tool_calls"
    assert WRITTEN not in "".join(each["delta"].get("content") or "" for each in choices)


@pytest.mark.parametrize("model", ["one", "two"])
async def test_an_answer_without_a_call_stays_text(clients: dict[str, Client], model: str) -> None:
    answer = await clients[model].chat(ASKED[:1], tools=[SEARCH_MEMORY], max_tokens=32)
    (choice,) = answer["choices"]

    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].startswith("Hello")
    assert not choice["message"].get("tool_calls")
