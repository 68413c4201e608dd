"""`/mcp`: the Model Context Protocol under the same credentials as every other route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shepherd_auth.identity import Scope as Right
from shepherd_memory.api.access import Caller, Gate
from shepherd_memory.api.recall import called
from shepherd_memory.mcp_server import Context, McpOverHttp

PATH = "/mcp"


def add_mcp(app: FastAPI, gate: Gate) -> McpOverHttp:
    """Serve MCP at `/mcp`; its `running` must be entered before the first request.

    It is not in the OpenAPI document: the protocol describes itself.
    """

    async def call(context: Context, name: str, arguments: Mapping[str, Any]) -> str:
        assert context.request is not None
        caller: Caller = context.request.state.caller
        answer = await called(caller, gate.metrics, name, dict(arguments))
        return answer.text

    door = McpOverHttp(call)

    async def mcp(request: Request) -> Response:
        request.state.caller = gate.admit(request, Right.READ)
        return _Handed(door)

    app.add_route(PATH, mcp, methods=["GET", "POST", "DELETE"], include_in_schema=False)
    return door


class _Handed(Response):
    """The protocol's own answer."""

    def __init__(self, door: McpOverHttp) -> None:
        super().__init__()
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the door answer."""
        await self._door(scope, receive, send)
