"""The gateway before Dynamo's real frontend, a worker with a small cache and the real memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import (
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
)

from openai_client import MODEL, eventually
from shepherd_cli.stack import Service, Stack
from shepherd_tiny_chat import MODEL_DIR

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
NUM_KV_BLOCKS = 96
WINDOW = 1024


@dataclass
class System:
    stack: Stack
    gateway: Service
    memory: Service
    frontend: Service
    client: openai.AsyncOpenAI
    fillers: Iterator[int] = field(default_factory=count)

    async def archived(self, session: str) -> list[dict[str, Any]]:
        async with self.stack.http.get(f"{self.memory.url}/v1/sessions/{session}/turns") as answer:
            turns = (await answer.json())["turns"] if answer.status == 200 else []
        return [turn for turn in turns if turn["state"] == "archived"]

    async def say(
        self, session: str, messages: list[ChatCompletionMessageParam], text: str
    ) -> dict[str, str]:
        """Append a question and its answer; returns what the gateway says it did."""
        messages.append({"role": "user", "content": text})
        answer = await self.client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=messages,
            temperature=0,
            max_tokens=64,
            extra_headers={"x-dynamo-session-id": session},
        )
        content = answer.parse().choices[0].message.content or ""
        messages.append({"role": "assistant", "content": content})
        return {name: value for name, value in answer.headers.items() if "shepherd" in name}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(stack: Stack) -> AsyncIterator[System]:
    worker = stack.worker(
        "worker",
        *("--model", str(MODEL_DIR), "--served-model-name", MODEL),
        *("--num-kv-blocks", str(NUM_KV_BLOCKS), "--max-seq-len", str(WINDOW)),
        *("--dyn-tool-call-parser", "hermes"),
    )
    frontend, memory, _ = await asyncio.gather(stack.frontend(), stack.memory(), worker)
    await stack.model_served(frontend, MODEL)
    gateway = await stack.gateway(frontend, memory)
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield System(stack, gateway, memory, frontend, client)


async def fill(system: System) -> None:
    """Another conversation that takes the cache's blocks."""
    messages: list[ChatCompletionMessageParam] = []
    session = f"filler-{next(system.fillers)}"
    for number in range(4):
        words = " ".join(f"{session} {number} {n}" for n in range(24))
        await system.say(session, messages, f"Here are some words: {words}")


async def told_and_forgotten(
    system: System, session: str, fact: str
) -> list[ChatCompletionMessageParam]:
    """A conversation whose first turn has been archived."""
    talk: list[ChatCompletionMessageParam] = []
    await system.say(session, talk, fact)
    await system.say(session, talk, "Thank you.")

    async def gone() -> bool:
        await fill(system)
        return bool(await system.archived(session))

    await eventually(gone, timeout_s=60)
    return talk


async def test_a_fact_that_left_the_cache_is_recalled(system: System) -> None:
    talk = await told_and_forgotten(system, "story", "My dog is called Biscuit.")
    told = await system.say("story", talk, "What is my dog called?")

    assert told["x-shepherd-memory"] == "ok"
    assert int(told["x-shepherd-dropped-turns"]) >= 1
    assert int(told["x-shepherd-notices"]) >= 1
    assert told["x-shepherd-recalls"] == "1"
    assert "Biscuit" in str(talk[-1]["content"])


async def test_a_stream_recalls_as_well_and_memory_hears_that_it_was_told(system: System) -> None:
    talk = await told_and_forgotten(system, "streamed", "My cat is called Pepper.")
    stream = await system.client.chat.completions.create(
        model=MODEL,
        messages=[*talk, {"role": "user", "content": "What is my cat called?"}],
        temperature=0,
        max_tokens=64,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-dynamo-session-id": "streamed"},
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert "Pepper" in text
    assert len({chunk.id for chunk in chunks}) == 1
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    async def acknowledged() -> bool:
        url = f"{system.memory.url}/v1/notices"
        found = await system.stack.get_json(url, session="streamed", state="acknowledged")
        return bool(found["notices"])

    await eventually(acknowledged)


async def test_the_responses_api_recalls_whole_and_streamed(system: System) -> None:
    talk = await told_and_forgotten(system, "responses", "My horse is called Domino.")
    asked: Any = {
        "model": MODEL,
        "input": [*talk, {"role": "user", "content": "What is my horse called?"}],
        "temperature": 0,
        "max_output_tokens": 64,
        "extra_headers": {"x-dynamo-session-id": "responses"},
    }
    whole = await system.client.responses.create(**asked)
    async with await system.client.responses.create(**asked, stream=True) as events:
        kinds = [event async for event in events]

    assert "Domino" in whole.output_text
    assert whole.store is False
    assert kinds[-1].type == "response.completed"
    assert "Domino" in kinds[-1].response.output_text
    said = "".join(each.delta for each in kinds if each.type == "response.output_text.delta")
    assert said == kinds[-1].response.output_text


async def test_a_conversation_longer_than_the_context_window_goes_on(system: System) -> None:
    talk: list[ChatCompletionMessageParam] = []
    await system.say("endless", talk, "My parrot is called Kiwi.")
    told: dict[str, str] = {}
    for number in range(12):
        words = " ".join(f"{number} {n}" for n in range(40))
        told = await system.say("endless", talk, f"Here are some words: {words}")
    at_the_end = await system.say("endless", talk, "What is my parrot called?")

    assert int(told["x-shepherd-dropped-turns"]) > 0
    archived = await system.archived("endless")
    assert archived[0]["messages"][0]["content"] == "My parrot is called Kiwi."
    assert at_the_end["x-shepherd-memory"] == "ok"
    assert "Kiwi" in str(talk[-1]["content"])


async def test_an_agent_of_pydantic_ai_runs_unchanged(system: System) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(openai_client=system.client)
    model = OpenAIChatModel(MODEL, provider=provider)
    agent = Agent(
        model,
        model_settings={
            "temperature": 0,
            "max_tokens": 64,
            "extra_headers": {"x-dynamo-session-id": "agent"},
        },
    )
    first = await agent.run("My goat is called Figaro.")
    second = await agent.run("What is my goat called?", message_history=first.all_messages())

    assert "Figaro" in second.output


async def test_a_clients_own_tool_is_the_clients_and_the_memorys_is_ours(system: System) -> None:
    weather: Any = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Bonn", "Rome"]}},
                "required": ["city"],
            },
        },
    }
    talk = await told_and_forgotten(system, "tools", "My rabbit is called Clover.")
    asked: Any = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 64,
        "tools": [weather],
        "extra_headers": {"x-dynamo-session-id": "tools"},
    }
    question: ChatCompletionMessageParam = {"role": "user", "content": "What is my rabbit called?"}
    recalled = await system.client.chat.completions.with_raw_response.create(
        **asked, messages=[*talk, question]
    )
    answer = recalled.parse().choices[0]
    talk += [question, {"role": "assistant", "content": answer.message.content or ""}]

    assert recalled.headers["x-shepherd-recalls"] == "1"
    assert answer.message.content, "what it says is its own: it has seen no other tool in training"
    assert not answer.message.tool_calls

    talk.append({"role": "user", "content": "How is the weather?"})
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    called = await system.client.chat.completions.create(**asked, messages=talk, tool_choice=named)
    (call,) = called.choices[0].message.tool_calls or ()

    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in {"Bonn", "Rome"}

    done: Any = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "It is sunny."}
    told = await system.client.chat.completions.create(**asked, messages=[*talk, done, result])

    assert told.choices[0].message.content
    assert not told.choices[0].message.tool_calls


async def test_curl_streams(system: System) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Thank you."}],
        "stream": True,
        "max_tokens": 16,
    }
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sN", "-i", f"{system.gateway.url}/v1/chat/completions"),
        *("-H", "content-type: application/json", "-H", "x-dynamo-session-id: curl"),
        *("-d", json.dumps(body)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await curl.communicate()

    assert out.startswith(b"HTTP/1.1 200")
    assert b"x-shepherd-memory: ok" in out
    assert out.rstrip().endswith(b"data: [DONE]")


async def test_the_models_are_the_frontends(system: System) -> None:
    models = await system.client.models.list()

    assert [model.id for model in models.data] == [MODEL]


async def test_without_its_memory_a_chat_goes_on(system: System) -> None:
    system.memory.process.kill()
    await system.memory.process.wait()
    talk: list[ChatCompletionMessageParam] = []
    told = await system.say("alone", talk, "Thank you.")

    assert told["x-shepherd-memory"] == "degraded"
    assert talk[-1]["content"]
