"""A frontend and a memory that do what they are told, as real HTTP servers on loopback.

Deterministic stand-ins for what the gateway talks to: for tests, and for trying a
client without a model.  They keep the promises of the real ones: the events of a
streamed answer end with `[DONE]`, archived is final, a notice comes with the turns
that it tells of.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SEARCH_TOOL = {
    "type": "function",
    "function": {
        "name": "search_memory",
        "description": "Search earlier parts of the conversation.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 2,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3},
}


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of a fake model."""

    words: tuple[str, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    """Names and arguments."""
    status: int = 200
    error: str = ""
    breaks_after: int | None = None
    """Pieces after which the connection is cut; 0 cuts it before the first byte."""
    error_after: int | None = None
    """Pieces after which the stream tells of `error`."""
    pause: asyncio.Event | None = None
    """What is waited for after the first piece."""
    finish: str = ""


Model = Callable[[dict[str, Any]], Said]


class FakeFrontend:
    """Answers chat completions as `model` says."""

    def __init__(self, model: Model = lambda _: Said(("Hello", " there."))) -> None:
        self.model = model
        self.asked: list[dict[str, Any]] = []
        """The bodies that came, in order."""
        self.headers: list[Mapping[str, str]] = []
        self.left = asyncio.Event()
        """Set when a client left before the end."""
        self.models = ["fake"]

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator[str]:
        """The URL under which it is there."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        async with _serving(app, port) as url:
            yield url

    async def _models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "object": "model"} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        said = self.model(body)
        if said.breaks_after == 0:
            _cut(request)
        if said.status != 200:
            return web.json_response({"error": {"message": said.error}}, status=said.status)
        try:
            if body.get("stream"):
                return await self._streamed(request, body, said)
            if said.pause is not None:
                await said.pause.wait()
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return web.json_response(self._whole(said))

    def _whole(self, said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(said.words) or None}
        if said.calls:
            message["tool_calls"] = [_call(place, each) for place, each in enumerate(said.calls)]
        choice = {"index": 0, "message": message, "finish_reason": _finish(said)}
        return {**self._envelope("chat.completion"), "choices": [choice], "usage": USAGE}

    async def _streamed(
        self, request: web.Request, body: Mapping[str, Any], said: Said
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for place, delta in enumerate(_deltas(said)):
            if place == said.breaks_after:
                _cut(request)
            if place == said.error_after:
                await _send(response, {"error": {"message": said.error, "code": 500}})
                return response
            finish = _finish(said) if "finish" in delta else None
            choice = {"index": 0, "delta": delta["delta"], "finish_reason": finish}
            chunk = {**self._envelope("chat.completion.chunk"), "choices": [choice]}
            await _send(response, chunk)
            if said.pause is not None and not place:
                await said.pause.wait()
        if (body.get("stream_options") or {}).get("include_usage"):
            envelope = self._envelope("chat.completion.chunk")
            await _send(response, {**envelope, "choices": [], "usage": USAGE})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _envelope(self, kind: str) -> dict[str, Any]:
        number = len(self.asked)
        return {"id": f"chatcmpl-{number}", "object": kind, "created": number, "model": "fake"}


@dataclass(slots=True)
class _Held:
    turns: list[dict[str, Any]] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)


class FakeMemory:
    """Keeps what it is told, by tenant and session."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        """What `search_memory` finds, by query."""
        self.searched: list[tuple[str, str]] = []
        """Tenant and query."""
        self.arguments: list[dict[str, Any]] = []
        """Of every call of a tool."""
        self.acknowledged: list[str] = []
        self.asked: list[str] = []
        """Paths, in order."""
        self.delay_s = 0.0
        self.pause: asyncio.Event | None = None
        """What is waited for before anything is answered."""
        self.status = 0
        """Answered to everything, if it is not 0."""
        self._held: dict[tuple[str, str], _Held] = {}
        self._clock = 0

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator[str]:
        """The URL under which it is there."""
        app = web.Application(middlewares=[self._watched], client_max_size=1 << 26)
        app.router.add_get("/v1/notices", self._notices)
        app.router.add_post("/v1/notices/{notice}/ack", self._acknowledge)
        app.router.add_get("/v1/sessions/{session}/turns", self._turns)
        app.router.add_post("/v1/sessions/{session}/archive", self._archive)
        app.router.add_get("/v1/tools", self._tools)
        app.router.add_post("/v1/tools/{tool}", self._call)
        async with _serving(app, port) as url:
            yield url

    def hear(
        self, session: str, *said: tuple[str, str], tenant: str = "local", ordinal: int = 0
    ) -> str:
        """A turn was completed; returns its archive id."""
        held = self._of(tenant, session)
        ordinal = ordinal or len(held.turns) + 1
        return self._insert(held, session, ordinal, said, self._tick())

    def evict(self, session: str, *archive_ids: str, tenant: str = "local") -> str:
        """Archive turns; returns the notice's id."""
        held = self._of(tenant, session)
        for turn in held.turns:
            if turn["archive_id"] in archive_ids:
                turn["state"] = "archived"
        number = len(held.notices) + 1
        topic = next(t for t in held.turns if t["archive_id"] in archive_ids)
        text = f'NOTICE: "{topic["messages"][0]["content"]}" has been moved to long-term memory.'
        notice_id = f"{session}-notice-{number}"
        held.notices.append(
            {
                "notice_id": notice_id,
                "position": number,
                "state": "pending",
                "session": session,
                "turns": [topic["ordinal"]],
                "topic": "",
                "archive_ids": list(archive_ids),
                "text": text,
                "created_unix_ns": self._tick(),
            }
        )
        return notice_id

    def forget(self, session: str, tenant: str = "local") -> None:
        """Remove all of a session for good."""
        self._held.pop((tenant, session), None)

    def turns(self, session: str, tenant: str = "local") -> Sequence[Mapping[str, Any]]:
        """What is held of a session."""
        return self._of(tenant, session).turns

    def _insert(
        self, held: _Held, session: str, ordinal: int, said: Sequence[tuple[str, str]], at: int
    ) -> str:
        archive_id = hashlib.sha256(repr((session, ordinal, said)).encode()).hexdigest()
        if archive_id not in {turn["archive_id"] for turn in held.turns}:
            held.turns.append(
                {
                    "archive_id": archive_id,
                    "session": session,
                    "ordinal": ordinal,
                    "state": "live",
                    "started_unix_ns": at,
                    "archived_unix_ns": None,
                    "messages": [{"role": role, "content": text} for role, text in said],
                }
            )
        return archive_id

    @web.middleware
    async def _watched(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.pause is not None:
            await self.pause.wait()
        if self.status:
            return web.json_response({"detail": "as told"}, status=self.status)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _notices(self, request: web.Request) -> web.Response:
        held = self._of(_tenant(request), request.query["session"])
        return web.json_response({"notices": held.notices, "next": None})

    async def _acknowledge(self, request: web.Request) -> web.Response:
        name = request.match_info["notice"]
        for held in self._held.values():
            for notice in held.notices:
                if notice["notice_id"] == name:
                    notice["state"] = "acknowledged"
                    self.acknowledged.append(name)
                    return web.Response(status=204)
        return web.json_response({"detail": "no such notice"}, status=404)

    async def _turns(self, request: web.Request) -> web.Response:
        held = self._of(_tenant(request), request.match_info["session"])
        if not held.turns:
            return web.json_response({"detail": "no such session"}, status=404)
        return web.json_response({"turns": held.turns, "next": None})

    async def _archive(self, request: web.Request) -> web.Response:
        session, body = request.match_info["session"], await request.json()
        tenant = _tenant(request)
        held = self._of(tenant, session)
        going = list(body["archive_ids"])
        for turn in body["unseen"]:
            said = [(each["role"], each["content"]) for each in turn["messages"]]
            going.append(self._insert(held, session, turn["ordinal"], said, 0))
        live = {turn["archive_id"] for turn in held.turns if turn["state"] == "live"}
        going = [each for each in going if each in live]
        if going:
            self.evict(session, *going, tenant=tenant)
        return web.json_response({"archived": bool(going)})

    async def _tools(self, _: web.Request) -> web.Response:
        return web.json_response({"tools": [SEARCH_TOOL]})

    async def _call(self, request: web.Request) -> web.Response:
        arguments = (await request.json())["arguments"]
        self.arguments.append(arguments)
        if "query" not in arguments:
            return web.json_response({"detail": "query is missing"}, status=422)
        query = str(arguments["query"])
        self.searched.append((_tenant(request), query))
        return web.json_response({"content": self.results.get(query, "Nothing was found.")})

    def _of(self, tenant: str, session: str) -> _Held:
        return self._held.setdefault((tenant, session), _Held())

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


@asynccontextmanager
async def _serving(app: web.Application, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _deltas(said: Said) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "content": word}} for word in said.words
    ]
    for place, call in enumerate(said.calls):
        deltas.append({"delta": {"tool_calls": [{"index": place, **_call(place, call)}]}})
    return [*deltas, {"delta": {}, "finish": True}]


def _call(place: int, call: tuple[str, str]) -> dict[str, Any]:
    name, arguments = call
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{place}", "type": "function", "function": function}


def _finish(said: Said) -> str:
    return said.finish or ("tool_calls" if said.calls else "stop")


async def _send(response: web.StreamResponse, document: Mapping[str, Any]) -> None:
    await response.write(f"data: {json.dumps(document)}\n\n".encode())


def _cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


def _tenant(request: web.Request) -> str:
    return request.headers.get("x-shepherd-tenant", "local")
