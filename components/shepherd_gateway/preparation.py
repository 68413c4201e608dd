"""Makes a request ready: its context, the memory's tools, room in the window.

Knows the memory and what it holds of a session.  Where that was asked before, nobody
waits for it again: the request is made of what was known last and sent, while the
memory is asked whether that is still so.  Nothing of the answer is used before it has
said yes; where it says no the request is withdrawn and made anew.  When the memory
fails, the request goes on with what was known last, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from shepherd_gateway import window
from shepherd_gateway.anchors import Anchors
from shepherd_gateway.archived import NOTHING, SessionView
from shepherd_gateway.context import OnEviction, Policy, context_of, numbered
from shepherd_gateway.errors import (
    MemoryRefusedError,
    MemoryUnavailableError,
    OutdatedError,
    UpstreamError,
)
from shepherd_gateway.memory import Memory
from shepherd_gateway.metrics import Metrics
from shepherd_gateway.tools import name_of, offered, with_tools
from shepherd_gateway.views import told_of
from shepherd_gateway.work import Ask, Work

log = logging.getLogger(__name__)

FEW_RESULTS = 2
"""Of a search whose results the window had no room for; at the next try one."""
MAX_FITTINGS = 6
"""Times that room is made for one request."""
_CLOSING_S = 2.0


class Preparation:
    """One for all requests of a process; event loop only."""

    def __init__(
        self,
        memory: Memory | None,
        *,
        policy: Policy,
        tool_names: Collection[str],
        metrics: Metrics,
    ) -> None:
        self._memory = memory
        self._policy = policy
        self._tool_names = frozenset(tool_names)
        self._metrics = metrics
        self._anchors = Anchors()
        self._telling: set[asyncio.Task[None]] = set()

    async def prepared(self, ask: Ask) -> Work:
        """The request as it is sent first."""
        work = Work(ask, dict(ask.body), self._policy)
        if self._memory is not None and ask.session:
            work.memory = "ok"
            work.guess = self._guess(ask)
            view = await self._view(work) if work.guess is None else work.guess
            self._make_context(work, view)
            await self._offer_tools(work)
        self._metrics.added_latency.observe(time.monotonic() - ask.arrived_s)
        return work

    @asynccontextmanager
    async def confirmed(self, work: Work) -> AsyncIterator[None]:
        """At the block's end it is certain that the memory holds what the request was made of.

        The block is cancelled as soon as it is certain that the memory does not.

        Raises:
            OutdatedError: it holds something else.
        """
        if work.guess is None:
            yield
            return
        guess, work.guess = work.guess, None
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._confirm(work, guess))
                yield
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def renewed(self, work: Work, view: SessionView) -> Work:
        """The request again, made of what the memory holds."""
        self._metrics.renewed.inc()
        return await self._made_anew(work, work.policy, view)

    async def fitted(self, work: Work, error: UpstreamError) -> Work:
        """The request again, with fewer turns, or where none can go with nothing that is ours.

        Raises:
            UpstreamError: the one that was given, where nothing can be done about it.
        """
        overflow = window.overflow_in(str(error)) if error.status in {400, 413, 422} else None
        if overflow is None or work.context is None or work.fittings == MAX_FITTINGS:
            raise error
        if work.rounds and work.max_results != 1:
            again = await self._prepared_anew(work, work.policy)
            again.max_results = 1 if work.max_results else FEW_RESULTS
            return again
        before = len(work.context.dropped)
        notice = replace(work.policy, on_eviction=OnEviction.NOTICE)
        again = await self._prepared_anew(work, notice)
        if again.context is not None and len(again.context.dropped) == before:
            again = await self._made_room(again, overflow)
        if again.context is not None and len(again.context.dropped) > before:
            self._metrics.made_room.labels("fitted").inc()
            return again
        if work.ours or work.context.anchors:
            self._metrics.made_room.labels("silent").inc()
            return await self._prepared_anew(work, replace(notice, is_silent=True))
        self._metrics.made_room.labels("no_room").inc()
        error.headers.update(again.headers())
        raise error

    def finish(self, work: Work) -> None:
        """Count what was done, and tell the memory whom it need not tell any more."""
        if work.context is None:
            return
        self._metrics.dropped_turns.inc(len(work.context.dropped))
        self._metrics.trimmed.inc(work.context.dropped_tokens)
        if work.pending:
            task = asyncio.create_task(self._tell(work.ask.tenant, work.pending))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Let the memory hear whom it need not tell any more, for a moment."""
        if self._telling:
            _, late = await asyncio.wait(self._telling, timeout=_CLOSING_S)
            for task in late:
                task.cancel()

    def _guess(self, ask: Ask) -> SessionView | None:
        """What the memory holds, most likely; None where it must be asked first.

        Of a conversation's first question nothing can have been archived.
        """
        assert self._memory is not None
        known = self._memory.last_view(ask.tenant, ask.session)
        if known is None and sum(each.get("role") == "user" for each in ask.body["messages"]) < 2:
            return NOTHING
        return known

    async def _confirm(self, work: Work, guess: SessionView) -> None:
        view = await self._view(work)
        if told_of(view.notices) != told_of(guess.notices):
            raise OutdatedError(view)
        work.pending = _pending(work, view)

    async def _view(self, work: Work) -> SessionView:
        assert self._memory is not None
        ask = work.ask
        try:
            return await self._memory.view(ask.tenant, ask.session)
        except MemoryUnavailableError as error:
            self.degrade(work, "view", error)
            return self._memory.last_view(ask.tenant, ask.session) or NOTHING

    async def _turns(self, work: Work) -> SessionView:
        assert self._memory is not None
        try:
            return await self._memory.turns(work.ask.tenant, work.ask.session)
        except MemoryUnavailableError as error:
            self.degrade(work, "turns", error)
            return NOTHING

    def _make_context(self, work: Work, view: SessionView) -> None:
        tenant, session = work.ask.tenant, work.ask.session
        remembered = self._anchors.of(tenant, session)
        context = context_of(work.ask.body["messages"], view, work.policy, remembered)
        fresh = [name for name in context.anchors if name not in remembered]
        self._anchors.remember(tenant, session, context.anchors)
        self._metrics.sessions.set(len(self._anchors))
        self._metrics.notices.inc(len(fresh))
        work.context = context
        work.body = numbered({**work.body, "messages": context.messages}, context.newest_ordinal)
        work.pending = _pending(work, view)

    async def _offer_tools(self, work: Work) -> None:
        assert self._memory is not None
        try:
            tools = await self._memory.tools(work.ask.tenant)
        except (MemoryUnavailableError, MemoryRefusedError) as error:
            self.degrade(work, "tools", error)
            tools = ()
        names = frozenset() if work.policy.is_silent else self._tool_names
        more = offered(work.ask.body, tools, names)
        work.ours = frozenset(map(name_of, more))
        work.body = with_tools(work.body, more)
        if work.body.get("stream"):
            options = work.body.get("stream_options") or {}
            work.body["stream_options"] = {**options, "include_usage": True}

    async def _prepared_anew(self, work: Work, policy: Policy) -> Work:
        again = await self._made_anew(work, policy, await self._turns(work))
        again.fittings += 1
        return again

    async def _made_anew(self, work: Work, policy: Policy, view: SessionView) -> Work:
        again = Work(
            work.ask,
            dict(work.ask.body),
            policy,
            memory=work.memory,
            fittings=work.fittings,
            max_results=work.max_results,
        )
        self._make_context(again, view)
        await self._offer_tools(again)
        return again

    async def _made_room(self, work: Work, overflow: window.Overflow) -> Work:
        assert self._memory is not None
        assert work.context is not None
        ask, context = work.ask, work.context
        gone = window.leaving(context, overflow)
        known = [row.archive_id for place in gone if (row := context.found[place]) is not None]
        unseen = [
            window.unseen(place, context.turns[place])
            for place in gone
            if context.found[place] is None
        ]
        if not gone or work.memory == "degraded":
            return work
        try:
            await self._memory.make_room(ask.tenant, ask.session, known, unseen)
        except (MemoryUnavailableError, MemoryRefusedError) as error:
            self.degrade(work, "make_room", error)
            return work
        again = await self._prepared_anew(work, work.policy)
        again.fittings = work.fittings
        return again

    async def _tell(self, tenant: str, notice_ids: Sequence[str]) -> None:
        assert self._memory is not None
        try:
            await self._memory.acknowledge(tenant, notice_ids)
        except MemoryUnavailableError as error:
            self._metrics.memory_failures.labels("acknowledge").inc()
            log.warning("notices stay pending: %s", error)

    def degrade(self, work: Work, call: str, error: Exception) -> None:
        """The request goes on without the memory."""
        work.memory = "degraded"
        self._metrics.memory_failures.labels(call).inc()
        log.warning("the chat goes on without memory: %s: %s", call, error)


def _pending(work: Work, view: SessionView) -> tuple[str, ...]:
    """The notices that stand in a request and that nobody has acknowledged."""
    stand = work.context.anchors if work.context is not None else ()
    return tuple(
        each.notice_id for each in view.notices if each.is_pending and each.notice_id in stand
    )
