"""The memory service, as the gateway asks it.

Knows its HTTP interface, and that one which is down or slow must cost a chat no
more than the time it is given.  A session's archived turns change only together
with its notices, so they are fetched again only when the notices have changed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from shepherd_gateway.archived import NOTHING, KeptTurn, SessionNotice, SessionView
from shepherd_gateway.breaker import Breaker
from shepherd_gateway.errors import MemoryRefusedError, MemoryUnavailableError
from shepherd_gateway.views import Views, told_of
from shepherd_telemetry.trace_context import current_traceparent

PAGE = 1000


class Memory(Protocol):
    """What a gateway needs of a memory.

    Every method raises MemoryUnavailableError where there is no answer in time.
    """

    @property
    def is_available(self) -> bool:
        """Whether the last calls were answered."""
        ...

    async def view(self, tenant: str, session: str) -> SessionView:
        """What is held of a session; nothing where it is not known."""
        ...

    def last_view(self, tenant: str, session: str) -> SessionView | None:
        """What `view` said last; None where that is not known."""
        ...

    async def turns(self, tenant: str, session: str) -> SessionView:
        """As `view`, fetched anew, with the turns even where no notice tells of any."""
        ...

    async def tools(self, tenant: str) -> Sequence[Mapping[str, Any]]:
        """The memory's tools, as a chat completion request offers them."""
        ...

    async def call_tool(self, tenant: str, name: str, arguments: Mapping[str, Any]) -> str:
        """What the model is told.

        Raises:
            MemoryRefusedError: why it cannot be done, for the model.
        """
        ...

    async def make_room(
        self,
        tenant: str,
        session: str,
        archive_ids: Sequence[str],
        unseen: Sequence[Mapping[str, Any]],
    ) -> None:
        """Archive turns that the context window has no room for, with a notice."""
        ...

    async def acknowledge(self, tenant: str, notice_ids: Iterable[str]) -> None:
        """The session has been told."""
        ...


class HttpMemory:
    """`Memory` over HTTP; one credential, which may have to be for any tenant."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        names_tenants: bool = False,
        timeout_s: float = 2.0,
        now_s: Callable[[], float] = time.monotonic,
        breaker: Breaker | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._names_tenants = names_tenants
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._breaker = breaker or Breaker()
        self._views = Views()
        self._tools: Sequence[Mapping[str, Any]] = ()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[HttpMemory]:
        """Be ready to be asked."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(
            headers=self._headers, timeout=timeout, connector=connector
        ) as self._http:
            yield self

    @property
    def is_available(self) -> bool:
        """See `Memory.is_available`."""
        return not self._breaker.is_open

    async def view(self, tenant: str, session: str) -> SessionView:
        """See `Memory.view`."""
        rows = await self._pages(tenant, "/notices", "notices", session=session)
        notices = tuple(_notice(row) for row in rows)
        known = self._views.of(tenant, session) or NOTHING
        if not notices:
            view = NOTHING
        elif told_of(notices) == told_of(known.notices):
            view = SessionView(known.turns, notices)
        else:
            path = f"/sessions/{quote(session, safe='')}/turns"
            turns = tuple(map(_kept, await self._pages(tenant, path, "turns")))
            view = SessionView(turns, notices)
        self._views.keep(tenant, session, view)
        return view

    def last_view(self, tenant: str, session: str) -> SessionView | None:
        """See `Memory.last_view`."""
        return self._views.of(tenant, session)

    async def turns(self, tenant: str, session: str) -> SessionView:
        """See `Memory.turns`."""
        notices = await self._pages(tenant, "/notices", "notices", session=session)
        rows = await self._pages(tenant, f"/sessions/{quote(session, safe='')}/turns", "turns")
        return SessionView(tuple(map(_kept, rows)), tuple(map(_notice, notices)))

    async def tools(self, tenant: str) -> Sequence[Mapping[str, Any]]:
        """See `Memory.tools`; asked for once, since they are in every prompt."""
        if not self._tools:
            self._tools = (await self._ask(tenant, "GET", "/tools"))["tools"]
        return self._tools

    async def call_tool(self, tenant: str, name: str, arguments: Mapping[str, Any]) -> str:
        """See `Memory.call_tool`."""
        body = {"arguments": dict(arguments)}
        answer = await self._ask(tenant, "POST", f"/tools/{quote(name, safe='')}", body=body)
        return str(answer["content"])

    async def make_room(
        self,
        tenant: str,
        session: str,
        archive_ids: Sequence[str],
        unseen: Sequence[Mapping[str, Any]],
    ) -> None:
        """See `Memory.make_room`."""
        body = {"archive_ids": list(archive_ids), "unseen": list(unseen)}
        await self._ask(tenant, "POST", f"/sessions/{quote(session, safe='')}/archive", body=body)

    async def acknowledge(self, tenant: str, notice_ids: Iterable[str]) -> None:
        """See `Memory.acknowledge`; a notice that is gone needs none."""
        for notice_id in notice_ids:
            try:
                await self._ask(tenant, "POST", f"/notices/{quote(notice_id, safe='')}/ack")
            except MemoryRefusedError:
                continue

    async def _pages(self, tenant: str, path: str, name: str, **query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            asked = {**query, "after": str(after), "limit": str(PAGE)}
            try:
                page = await self._ask(tenant, "GET", path, query=asked)
            except MemoryRefusedError:
                return rows  # nothing is known of the session
            rows += page[name]
            after = page["next"]
        return rows

    async def _ask(
        self,
        tenant: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Any:
        if not self._breaker.allows(self._now_s()):
            raise MemoryUnavailableError("it failed lately and is not asked just now")
        headers = {"x-shepherd-tenant": tenant} if self._names_tenants else {}
        if trace := current_traceparent():
            headers["traceparent"] = trace
        data = None
        if body is not None:
            data = BytesIO(msgspec.json.encode(body))
            headers["content-type"] = "application/json"
        url = URL(f"{self._url}/v1{path}", encoded=True).with_query(query)
        try:
            async with self._http.request(method, url, data=data, headers=headers) as answer:
                document = _document(await answer.read())
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            self._breaker.failed(self._now_s())
            raise MemoryUnavailableError(type(error).__name__) from error
        if status in {401, 403, 429} or status >= 500:
            self._breaker.failed(self._now_s())
            raise MemoryUnavailableError(f"it answered {status}")
        self._breaker.succeeded()
        if status >= 400:
            detail = document.get("detail", "") if isinstance(document, dict) else ""
            raise MemoryRefusedError(str(detail or f"refused with {status}"))
        return document


def _document(body: bytes) -> Any:
    return msgspec.json.decode(body) if body else None


def _notice(row: Mapping[str, Any]) -> SessionNotice:
    return SessionNotice(
        notice_id=row["notice_id"],
        text=row["text"],
        archive_ids=frozenset(row["archive_ids"]),
        created_unix_ns=row["created_unix_ns"],
        is_pending=row["state"] == "pending",
    )


def _kept(row: Mapping[str, Any]) -> KeptTurn:
    return KeptTurn(
        archive_id=row["archive_id"],
        ordinal=row["ordinal"],
        is_archived=row["state"] == "archived",
        messages=tuple((each["role"], each["content"]) for each in row["messages"]),
        started_unix_ns=row["started_unix_ns"],
    )
