"""Give a client of the Model Context Protocol a memory that lasts.

Starts the memory service in this process, with an empty store and no workers to
listen to, and talks to it as any MCP client would, over streamable HTTP: what tools are
there, store something, find it again.  A client that starts its servers itself runs
`shepherd memory mcp` instead.  No model, no GPU, no Dynamo.

Expected output:

    tools: search_memory, store_memory, clear_memory, set_fact, get_fact, clear_fact, list_facts
    store_memory: Successfully stored memory: Where is the spare key?
    search_memory: Found 1 archived conversation(s):
      User: Where is the spare key?
      Assistant: Under the third stone.
    set_fact: Successfully stored fact: favourite colour
    get_fact: <recalled_memory> teal </recalled_memory>

    python examples/10_mcp_client.py
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from shepherd_memory.config import MemoryConfig
from shepherd_memory.fake import FakeDirectory
from shepherd_memory.service import serve


async def call(client: Client, name: str, **arguments: Any) -> str:
    """What a tool answers."""
    result = await client.call_tool(name, arguments)
    return "\n".join(getattr(each, "text", "") for each in result.content)


async def use(url: str) -> None:
    """Everything that an MCP client does."""
    async with (
        httpx2.AsyncClient() as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        listed = await client.list_tools()
        print("tools:", ", ".join(tool.name for tool in listed.tools))
        question = "Where is the spare key?"
        stored = await call(
            client, "store_memory", question=question, answer="Under the third stone."
        )
        print("store_memory:", stored)
        found = (await call(client, "search_memory", query="spare key")).splitlines()
        print("search_memory:", found[0])
        for line in found:
            if line.startswith(("User:", "Assistant:")):
                print(f"  {line}")
        fact = await call(client, "set_fact", key="favourite colour", value="teal")
        print("set_fact:", fact)
        told = await call(client, "get_fact", key="favourite colour")
        print("get_fact:", *told.split())


async def main() -> None:
    """A memory service on a free port, and a client."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory:
        config = MemoryConfig(data_dir=directory, http_port=0, admin_port=None)
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(config, FakeDirectory(), on_ready=ready.set_result))
        try:
            await use(await ready)
        finally:
            serving.cancel()
            await asyncio.wait([serving])


if __name__ == "__main__":
    asyncio.run(main())
