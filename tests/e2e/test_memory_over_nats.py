"""The way from an evicted block to the archive, with a NATS broker in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nats_broker import NatsBroker
from openai_client import MODEL, Client, eventually
from shepherd_cli.stack import Stack
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE as QUESTIONS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsBroker]:
    broker = NatsBroker(tmp_path).start()
    yield broker
    broker.kill()


async def test_evicted_turns_reach_the_archive_though_the_broker_is_killed_on_the_way(
    stack: Stack, tiny_chat_model: Path, broker: NatsBroker
) -> None:
    model = ("--model", str(tiny_chat_model), "--served-model-name", MODEL)
    cache = ("--num-kv-blocks", "16", "--max-seq-len", "240")
    events = ("--kv-events", "nats", "--kv-events-endpoint", broker.url)
    await stack.worker("worker", *model, *cache, *events)
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    memory = await stack.memory()
    client = Client(stack, frontend, MODEL)

    for number in range(4):
        if number == 2:
            broker.kill()
        messages: list[dict[str, str]] = []
        for question, _ in QUESTIONS[3 * number : 3 * number + 3]:
            messages.append({"role": "user", "content": question})
            answer = await client.chat(messages, session=f"session-{number}", max_tokens=48)
            messages.append(answer["choices"][0]["message"])
        if number == 2:
            broker.start()

    async def found() -> list[dict[str, Any]]:
        params = {"query": QUESTIONS[0][0], "session": "session-0", "k": "1"}
        answer: dict[str, Any] = await stack.get_json(f"{memory.url}/v1/search", **params)
        return list(answer["hits"])

    (hit,) = await eventually(found)
    assert hit["ordinal"] == 1
    assert hit["messages"][0]["content"] == QUESTIONS[0][0]
