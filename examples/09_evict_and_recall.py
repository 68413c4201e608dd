"""Lose a part of a conversation and answer from it all the same.

A gateway stands between a client and a model.  The client sends its whole history,
as OpenAI clients do; the memory says that the first turn has left the cache; so the
gateway sends a NOTICE in its place and offers `search_memory`, whose calls it answers
itself.  Model and memory are stand-ins that do what they are told, over real HTTP; with
`python -m shepherd_gateway` the same happens between a real model and a real memory.

Expected output:

    client sends    user: My cat is called Tibbles.
                    assistant: Noted.
                    user: What is my cat called?
    model is sent   tool: NOTICE: "My cat is called Tibbles." has been moved to long-term memory.
                    user: What is my cat called?
    model calls     search_memory {"query": "name of cat"}
    model is sent   tool: User: My cat is called Tibbles.
    client gets     Tibbles, as you told me.
    and is told     1 turn dropped, 1 notice, 1 recall

    python examples/09_evict_and_recall.py
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp

from shepherd_gateway.config import GatewayConfig
from shepherd_gateway.fake import FakeFrontend, FakeMemory, Said
from shepherd_gateway.service import serve

FACT, NOTED, QUESTION = "My cat is called Tibbles.", "Noted.", "What is my cat called?"
QUERY = "name of cat"


def model(body: dict[str, Any]) -> Said:
    """Looks up what a NOTICE tells of, and answers from what it found."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Said((f"{last['content'].split()[-1].strip('.')}, as you told me.",))
    if any(each["role"] == "tool" for each in body["messages"]):
        return Said(calls=(("search_memory", f'{{"query": "{QUERY}"}}'),))
    return Said(("I do not know.",))


def lines(title: str, messages: list[dict[str, Any]]) -> None:
    """Messages, one below the other."""
    for place, message in enumerate(messages):
        print(f"{'' if place else title:15} {message['role']}: {message['content']}")


async def ask(url: str, history: list[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """The answer, and the headers that say what the gateway did."""
    body = {"model": "fake", "messages": history}
    headers = {"x-dynamo-session-id": "me"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        document = await answer.json()
        return document["choices"][0]["message"]["content"], dict(answer.headers)


async def talk(url: str, frontend: FakeFrontend) -> None:
    """Ask for what is gone, and show what went where."""
    history = [
        {"role": "user", "content": FACT},
        {"role": "assistant", "content": NOTED},
        {"role": "user", "content": QUESTION},
    ]
    lines("client sends", history)
    answer, told = await ask(url, history)
    first, second = (body["messages"] for body in frontend.asked)
    lines("model is sent", first)
    call = second[-2]["tool_calls"][0]["function"]
    print(f"{'model calls':15} {call['name']} {call['arguments']}")
    lines("model is sent", second[-1:])
    print(f"{'client gets':15} {answer}")
    print(
        f"{'and is told':15} {told['x-shepherd-dropped-turns']} turn dropped, "
        f"{told['x-shepherd-notices']} notice, {told['x-shepherd-recalls']} recall"
    )


async def main() -> None:
    """A frontend, a memory, and the gateway between them."""
    logging.disable(logging.INFO)
    frontend, memory = FakeFrontend(model), FakeMemory()
    turn = memory.hear("me", ("user", FACT), ("assistant", NOTED))
    memory.evict("me", turn)
    memory.results[QUERY] = f"User: {FACT}"
    async with frontend.served() as upstream, memory.served() as remembering:
        config = GatewayConfig(
            upstream=(upstream,), memory=remembering, http_port=0, admin_port=None
        )
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(config, on_ready=ready.set_result))
        try:
            await talk(await ready, frontend)
        finally:
            serving.cancel()
            await asyncio.wait([serving])


if __name__ == "__main__":
    asyncio.run(main())
