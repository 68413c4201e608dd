"""Asks a memory service, from Python.

    async with MemoryClient("http://127.0.0.1:8765") as memory:
        answer = await memory.search("where do cats sleep")

    with SyncMemoryClient("http://127.0.0.1:8765", key="shp_...") as memory:
        print(memory.call_tool("search_memory", {"query": "cats"}))

Every call may be repeated: writes carry an `Idempotency-Key`.  So a service that
cannot be reached, is overloaded (429) or waits for its disk (503) is asked
again, after the pause that it asks for, before an error is raised.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel
from yarl import URL

from shepherd_memory.models import (
    ContextAnswer,
    ErasedModel,
    FactModel,
    FactPage,
    MemoryPage,
    MemoryStored,
    NoticePage,
    Removed,
    SearchAnswer,
    SessionModel,
    SessionPage,
    StatsModel,
    ToolAnswer,
    ToolList,
    TurnPage,
)

TRIES = 4
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 10.0
TIMEOUT_S = 90.0
"""Longer than the longest wait for notices."""
_AGAIN = frozenset({429, 503})

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Narrowing(TypedDict, total=False):
    """Which turns a search leaves out."""

    session: str | None
    """Any but this conversation's."""
    since_unix_ns: int | None
    """Those that began before."""
    until_unix_ns: int | None
    """Those that began then or later."""
    min_relevance: float
    """Those of which less than this share fits, from 0 to 1."""


class MemoryClientError(Exception):
    """The service refused."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        """The problem document as it was received."""
        super().__init__(f"{status}: {problem.get('detail', 'no details')}")


class MemoryUnreachableError(Exception):
    """Nobody answers at the service's address."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(f"{url} does not answer: {reason}")


class Connection:
    """One service, one credential; an asynchronous context manager."""

    def __init__(self, url: str, key: str, tenant: str, *, pause_s: float) -> None:
        self._url = URL(url)
        self._pause_s = pause_s
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        if tenant:
            self._headers["x-shepherd-tenant"] = tenant

    async def open(self) -> None:
        """Be ready to ask."""
        self._http = aiohttp.ClientSession(
            headers=self._headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.close()

    async def ask(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: Any = None
    ) -> Any:
        """The document that answers; None where the answer has none.

        Raises:
            MemoryClientError: the service refused.
            MemoryUnreachableError: it does not answer.
        """
        extra = {"idempotency-key": uuid.uuid4().hex} if method != "GET" else {}
        pause_s = self._pause_s
        for left in reversed(range(TRIES)):
            try:
                async with self._http.request(
                    method, self._at(path, query), json=body, headers=extra
                ) as answer:
                    if answer.status not in _AGAIN or not left:
                        return await _document(answer)
                    asked_s = answer.headers.get("retry-after", "")
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                if not left:
                    raise MemoryUnreachableError(str(self._url), type(error).__name__) from error
                asked_s = ""
            wait_s = float(asked_s) if asked_s.isdecimal() else pause_s
            await asyncio.sleep(min(wait_s, MAX_PAUSE_S))
            pause_s *= 2
        raise AssertionError("the last try returns or raises")

    async def lines(self, path: str, query: Mapping[str, object]) -> AsyncGenerator[dict[str, Any]]:
        """The documents of an answer that is one per line, as they come.

        Raises:
            MemoryClientError: the service refused.
            MemoryUnreachableError: it does not answer, or stopped in the middle.
        """
        try:
            async with self._http.get(self._at(path, query)) as answer:
                if answer.status >= 400:
                    await _document(answer)
                async for line in answer.content:
                    yield json.loads(line)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise MemoryUnreachableError(str(self._url), type(error).__name__) from error

    def _at(self, path: str, query: Mapping[str, object] | None) -> URL:
        given = {name: _spelt(value) for name, value in (query or {}).items() if value is not None}
        where = str(self._url).rstrip("/") + path
        return URL(where, encoded=True).with_query(given)


class MemoryClient:
    """The memory of one tenant; every method may raise what `Connection.ask` does."""

    def __init__(
        self, url: str, *, key: str = "", tenant: str = "", pause_s: float = FIRST_PAUSE_S
    ) -> None:
        """`tenant` is for keys that are for any tenant; `pause_s` comes before the second try."""
        self._connection = Connection(url, key, tenant, pause_s=pause_s)

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def search(
        self, query: str, *, k: int = 5, neighbours: bool = False, **only: Unpack[Narrowing]
    ) -> SearchAnswer:
        """Archived turns that fit best, word for word; `neighbours` brings those around each."""
        return await self._get(
            SearchAnswer, "/search", query=query, k=k, neighbours=neighbours, **only
        )

    async def context(self, query: str, *, k: int = 3, **only: Unpack[Narrowing]) -> ContextAnswer:
        """What memory knows as text for a prompt."""
        return await self._get(ContextAnswer, "/context", query=query, k=k, **only)

    async def sessions(self, *, after: str = "", limit: int = 100) -> SessionPage:
        """Sessions by name."""
        return await self._get(SessionPage, "/sessions", after=after, limit=limit)

    async def session(self, session: str) -> SessionModel:
        """One session."""
        return await self._get(SessionModel, f"/sessions/{_part(session)}")

    async def turns(self, session: str, *, after: int = 0, limit: int = 100) -> TurnPage:
        """A session's turns."""
        path = f"/sessions/{_part(session)}/turns"
        return await self._get(TurnPage, path, after=after, limit=limit)

    async def forget_session(self, session: str) -> ErasedModel:
        """Remove all of a conversation for good."""
        return await self._do(ErasedModel, "DELETE", f"/sessions/{_part(session)}")

    async def forget_turn(self, archive_id: str) -> ErasedModel:
        """Remove one turn for good."""
        return await self._do(ErasedModel, "DELETE", f"/turns/{archive_id}")

    async def forget_everything(self) -> ErasedModel:
        """Remove everything of the tenant for good."""
        return await self._do(ErasedModel, "DELETE", "/archive")

    async def export(self, session: str | None = None) -> AsyncGenerator[dict[str, Any]]:
        """Everything that is kept, or everything of one session; the last has kind `end`."""
        async for record in self._connection.lines("/v1/export", {"session": session}):
            yield record

    async def stats(self) -> StatsModel:
        """How much there is."""
        return await self._get(StatsModel, "/stats")

    async def facts(self, *, after: str = "", limit: int = 100) -> FactPage:
        """The facts that hold now."""
        return await self._get(FactPage, "/facts", after=after, limit=limit)

    async def fact(self, key: str) -> FactModel:
        """One fact."""
        return await self._get(FactModel, f"/facts/{_part(key)}")

    async def set_fact(self, key: str, value: str) -> None:
        """Give a key a value."""
        await self._connection.ask("PUT", f"/v1/facts/{_part(key)}", body={"value": value})

    async def clear_fact(self, key: str) -> None:
        """End a fact."""
        await self._connection.ask("DELETE", f"/v1/facts/{_part(key)}")

    async def forget_fact(self, key: str) -> ErasedModel:
        """Remove all values that a key ever had, for good."""
        return await self._do(ErasedModel, "DELETE", f"/facts/{_part(key)}/history")

    async def memories(self, *, after: str = "", limit: int = 100) -> MemoryPage:
        """What was stored by hand."""
        return await self._get(MemoryPage, "/memories", after=after, limit=limit)

    async def store_memory(self, question: str, answer: str) -> str:
        """Remember an exchange; returns its archive id."""
        body = {"question": question, "answer": answer}
        return (await self._do(MemoryStored, "POST", "/memories", body=body)).archive_id

    async def clear_memory(self, question: str) -> int:
        """Remove what was stored by hand under exactly this question; returns how many."""
        body = {"question": question}
        return (await self._do(Removed, "POST", "/memories/clear", body=body)).removed

    async def notices(
        self,
        *,
        session: str | None = None,
        state: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> NoticePage:
        """The outbox."""
        return await self._get(
            NoticePage, "/notices", session=session, state=state, after=after, limit=limit
        )

    async def wait_for_notices(
        self, *, session: str | None = None, after: int = 0, timeout_s: int = 30
    ) -> NoticePage:
        """Pending notices as soon as there are any; none when time is up."""
        return await self._get(
            NoticePage, "/notices/wait", session=session, after=after, timeout=timeout_s
        )

    async def acknowledge(self, notice_id: str) -> None:
        """The session has been told."""
        await self._connection.ask("POST", f"/v1/notices/{_part(notice_id)}/ack")

    async def tools(self) -> list[dict[str, Any]]:
        """The memory's tools, for a chat completion request."""
        return (await self._get(ToolList, "/tools")).model_dump()["tools"]  # type: ignore[no-any-return]

    async def call_tool(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool as a model asked for it; returns what the model is told."""
        body = {"arguments": dict(arguments)}
        return (await self._do(ToolAnswer, "POST", f"/tools/{_part(name)}", body=body)).content

    async def _get(self, model: type[M], path: str, **query: object) -> M:
        return model.model_validate(await self._connection.ask("GET", f"/v1{path}", query=query))

    async def _do(self, model: type[M], method: str, path: str, *, body: Any = None) -> M:
        return model.model_validate(await self._connection.ask(method, f"/v1{path}", body=body))


class SyncMemoryClient:
    """`MemoryClient` for programs without an event loop; for one thread.

    The calls that tools, facts and recall need; everything else by `run`:
    `memory.run(memory.client.turns("s"))`.
    """

    def __init__(
        self, url: str, *, key: str = "", tenant: str = "", pause_s: float = FIRST_PAUSE_S
    ) -> None:
        self.client = MemoryClient(url, key=key, tenant=tenant, pause_s=pause_s)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self.run(self.client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self.client.__aexit__(kind, error, trace))
        self._runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for a call of `client`."""
        return self._runner.run(call)

    def search(
        self, query: str, *, k: int = 5, neighbours: bool = False, **only: Unpack[Narrowing]
    ) -> SearchAnswer:
        """See `MemoryClient.search`."""
        return self.run(self.client.search(query, k=k, neighbours=neighbours, **only))

    def context(self, query: str, *, k: int = 3, **only: Unpack[Narrowing]) -> ContextAnswer:
        """See `MemoryClient.context`."""
        return self.run(self.client.context(query, k=k, **only))

    def facts(self, *, after: str = "", limit: int = 100) -> FactPage:
        """See `MemoryClient.facts`."""
        return self.run(self.client.facts(after=after, limit=limit))

    def set_fact(self, key: str, value: str) -> None:
        """See `MemoryClient.set_fact`."""
        self.run(self.client.set_fact(key, value))

    def store_memory(self, question: str, answer: str) -> str:
        """See `MemoryClient.store_memory`."""
        return self.run(self.client.store_memory(question, answer))

    def notices(
        self, *, session: str | None = None, state: str | None = None, after: int = 0
    ) -> NoticePage:
        """See `MemoryClient.notices`."""
        return self.run(self.client.notices(session=session, state=state, after=after))

    def acknowledge(self, notice_id: str) -> None:
        """See `MemoryClient.acknowledge`."""
        self.run(self.client.acknowledge(notice_id))

    def tools(self) -> list[dict[str, Any]]:
        """See `MemoryClient.tools`."""
        return self.run(self.client.tools())

    def call_tool(self, name: str, arguments: Mapping[str, Any]) -> str:
        """See `MemoryClient.call_tool`."""
        return self.run(self.client.call_tool(name, arguments))


async def _document(answer: aiohttp.ClientResponse) -> Any:
    text = await answer.text()
    try:
        document = json.loads(text) if text else None
    except ValueError:
        document = {"detail": f"not JSON: {answer.content_type}"}
        raise MemoryClientError(answer.status, document) from None
    if answer.status >= 400:
        raise MemoryClientError(answer.status, document if isinstance(document, dict) else {})
    return document


def _spelt(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _part(name: str) -> str:
    """A name as one part of a path, its slashes included."""
    return quote(name, safe="")
