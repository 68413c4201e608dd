"""An agent that keeps what it learns, through a memory service that any process may ask.

The loop is that of every agent with tools: ask the model, do what it calls, ask again.
The tools are the memory's own, offered and called by `MemoryClient`; the model is a few
rules in place of an LLM.  A second agent, which has never heard the first one's
conversation, answers from what that one stored.  No model, no GPU, no Dynamo.

Expected output:

    first agent
      user        Remember that deliveries go to the back door.
      calls       store_memory
      assistant   I will remember that.
    second agent
      user        Where do deliveries go?
      calls       search_memory
      assistant   I was told: deliveries go to the back door.

    python examples/11_agent_with_memory.py
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from dataclasses import dataclass, field
from typing import Any

from shepherd_memory.client import MemoryClient
from shepherd_memory.config import MemoryConfig
from shepherd_memory.fake import FakeDirectory
from shepherd_memory.service import serve

Message = dict[str, Any]
MAX_ROUNDS = 4
REMEMBER = "Remember that "


def model(messages: list[Message], tools: list[str]) -> Message:
    """What an LLM would say next: a call of a tool that is offered, or an answer."""
    said = messages[-1]["content"]
    if messages[-1]["role"] == "tool":
        found = re.search(r"^Assistant: (.*)\.$", said, re.MULTILINE)
        return answer(f"I was told: {found[1]}." if found else "I will remember that.")
    if said.startswith(REMEMBER) and "store_memory" in tools:
        fact = said.removeprefix(REMEMBER)
        return calling("store_memory", question=f"What of {fact.split()[0]}?", answer=fact)
    return calling("search_memory", query=said)


def answer(text: str) -> Message:
    """An assistant's message."""
    return {"role": "assistant", "content": text}


def calling(name: str, **arguments: str) -> Message:
    """An assistant's message that calls a tool."""
    return {"role": "assistant", "content": "", "call": (name, arguments)}


@dataclass
class Agent:
    """One conversation and the memory that it shares with others."""

    memory: MemoryClient
    messages: list[Message] = field(default_factory=list)

    async def hear(self, text: str) -> None:
        """Answer a user, calling tools as the model wants."""
        tools = [tool["function"]["name"] for tool in await self.memory.tools()]
        self.messages.append({"role": "user", "content": text})
        print(f"  {'user':11} {text}")
        for _ in range(MAX_ROUNDS):
            said = model(self.messages, tools)
            self.messages.append(said)
            if "call" not in said:
                print(f"  {'assistant':11} {said['content']}")
                return
            name, arguments = said["call"]
            print(f"  {'calls':11} {name}")
            result = await self.memory.call_tool(name, arguments)
            self.messages.append({"role": "tool", "content": result})


async def work(url: str) -> None:
    """Two agents, one after the other."""
    async with MemoryClient(url) as memory:
        print("first agent")
        await Agent(memory).hear(f"{REMEMBER}deliveries go to the back door.")
        print("second agent")
        await Agent(memory).hear("Where do deliveries go?")


async def main() -> None:
    """A memory service on a free port, and its users."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory:
        config = MemoryConfig(data_dir=directory, http_port=0, admin_port=None)
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(config, FakeDirectory(), on_ready=ready.set_result))
        try:
            await work(await ready)
        finally:
            serving.cancel()
            await asyncio.wait([serving])


if __name__ == "__main__":
    asyncio.run(main())
