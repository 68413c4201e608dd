"""MCP over stdio, in front of a running service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from shepherd_cli.memory.asking import Service
from shepherd_memory.client import MemoryClient, MemoryClientError, MemoryUnreachableError
from shepherd_memory.errors import MemoryServiceError
from shepherd_memory.mcp_server import Context, serve_stdio


class AskedServiceError(MemoryServiceError):
    """The service refused, or does not answer: what the model is told."""


def bridge(service: Service) -> None:
    """Serve stdin and stdout until stdin ends; one credential for every call."""
    asyncio.run(_serve(service))


async def _serve(service: Service) -> None:
    async with service.client() as client:

        async def call(context: Context, name: str, arguments: Mapping[str, Any]) -> str:
            del context
            return await _called(client, name, arguments)

        await serve_stdio(call)


async def _called(client: MemoryClient, name: str, arguments: Mapping[str, Any]) -> str:
    try:
        return await client.call_tool(name, arguments)
    except (MemoryClientError, MemoryUnreachableError) as error:
        raise AskedServiceError(str(error)) from error
