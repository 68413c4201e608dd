"""What the caches forget, memory has: every turn, once, word for word, whatever happens to memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openai_client import MODEL, Client, eventually
from shepherd_cli.stack import Service, Stack
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE as QUESTIONS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
NUM_KV_BLOCKS = 16
TURNS_EACH = 3


@dataclass
class Talk:
    """A conversation as its client knows it."""

    client: Client
    session: str
    messages: list[dict[str, str]] = field(default_factory=list)

    async def say(self, question: str) -> None:
        self.messages.append({"role": "user", "content": question})
        answer = await self.client.chat(self.messages, session=self.session, max_tokens=48)
        content = answer["choices"][0]["message"]["content"]
        self.messages.append({"role": "assistant", "content": content})

    def turns(self) -> list[list[dict[str, str]]]:
        return [self.messages[i : i + 2] for i in range(0, len(self.messages), 2)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: Stack, tiny_chat_model: Path) -> AsyncIterator[Client]:
    model = ("--model", str(tiny_chat_model), "--served-model-name", MODEL)
    cache = ("--num-kv-blocks", str(NUM_KV_BLOCKS), "--max-seq-len", "240")
    worker = await stack.worker("worker", *model, *cache)
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    assert worker.process.exit_code is None
    yield Client(stack, frontend, MODEL)


async def talk(client: Client, number: int) -> Talk:
    conversation = Talk(client, f"session-{number}")
    for turn in range(TURNS_EACH):
        question, _ = QUESTIONS[(number * TURNS_EACH + turn) % len(QUESTIONS)]
        await conversation.say(question)
    return conversation


async def archived(stack: Stack, memory: Service, session: str) -> list[dict[str, Any]]:
    url = f"{memory.url}/v1/sessions/{session}/turns"
    async with stack.http.get(url) as response:
        if response.status == 404:
            return []
        turns = (await response.json())["turns"]
    return [turn for turn in turns if turn["state"] == "archived"]


@pytest_asyncio.fixture(loop_scope="module")
async def memory(stack: Stack) -> AsyncIterator[Service]:
    service = await stack.memory()
    yield service
    await service.process.stop(10)


async def test_every_evicted_turn_is_archived_once_though_memory_is_killed_in_the_middle(
    client: Client, stack: Stack, memory: Service
) -> None:
    talks = [await talk(client, number) for number in range(2)]
    memory.process.kill()
    await memory.process.wait()
    talks += [await talk(client, number) for number in range(2, 6)]
    memory = await stack.memory()
    talks += [await talk(client, number) for number in range(6, 10)]
    evicted = talks[:-3]  # the cache holds fewer than three conversations

    async def all_archived() -> bool:
        counts = [len(await archived(stack, memory, each.session)) for each in evicted]
        return counts == [TURNS_EACH - 1] * len(evicted)  # the newest turn is protected

    await eventually(all_archived)
    for each in evicted:
        found = await archived(stack, memory, each.session)
        assert [turn["messages"] for turn in found] == each.turns()[:-1]
        assert [turn["ordinal"] for turn in found] == list(range(1, TURNS_EACH))
    notices = (await stack.get_json(f"{memory.url}/v1/notices", limit="1000"))["notices"]
    told = Counter(archive_id for notice in notices for archive_id in notice["archive_ids"])
    for each in evicted:
        for turn in await archived(stack, memory, each.session):
            assert told[turn["archive_id"]] == 1
    assert max(told.values()) == 1
    await memory.process.stop(10)


async def test_a_search_brings_an_evicted_exchange_back_word_for_word(
    client: Client, stack: Stack, memory: Service
) -> None:
    first = await talk(client, 20)
    for number in range(21, 24):
        await talk(client, number)
    question, answer = first.turns()[0]

    async def found() -> list[dict[str, Any]]:
        params = {"query": question["content"], "session": first.session, "k": "1"}
        answer: dict[str, Any] = await stack.get_json(f"{memory.url}/v1/search", **params)
        return list(answer["hits"])

    (hit,) = await eventually(found)
    assert hit["messages"] == [question, answer]
    assert hit["ordinal"] == 1


async def test_a_conversation_without_a_session_is_served_and_never_archived(
    client: Client, stack: Stack, memory: Service
) -> None:
    anonymous = Talk(client, "")
    for question, _ in QUESTIONS[:TURNS_EACH]:
        await anonymous.say(question)

    async def counted() -> bool:
        async with stack.http.get(memory.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        anonymous_turns = [line for line in lines if "anonymous" in line and line[0] != "#"]
        return any(float(line.split()[-1]) >= TURNS_EACH for line in anonymous_turns)

    await eventually(counted)
    sessions = (await stack.get_json(f"{memory.url}/v1/sessions"))["sessions"]
    assert "" not in {each["session"] for each in sessions}
