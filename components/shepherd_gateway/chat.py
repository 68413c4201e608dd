"""One chat completion: the context made, the memory's calls answered, the rest passed on.

    client ──► context.py ──► upstream ──► pieces ──► client
                   ▲             ▲   │ calls of the memory's tools
                memory           └───┴── tools.py: answered, asked again

Without a session, or without a memory, requests and answers pass as they are.
When the memory fails the chat goes on with what was known last, and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

from shepherd_gateway.errors import (
    MemoryRefusedError,
    MemoryUnavailableError,
    OutdatedError,
    UpstreamError,
    error_document,
)
from shepherd_gateway.memory import Memory
from shepherd_gateway.metrics import Metrics
from shepherd_gateway.preparation import Preparation
from shepherd_gateway.relay import Relay
from shepherd_gateway.sse import DONE, encoded
from shepherd_gateway.tools import (
    UNREADABLE,
    Call,
    Round,
    added,
    answered,
    name_of,
    without_calls,
)
from shepherd_gateway.upstream import Upstream
from shepherd_gateway.work import Ask, Work
from shepherd_telemetry.spans import NO_SPANS, Spans, measured

log = logging.getLogger(__name__)

UNREACHABLE = "Error: long-term memory cannot be reached just now. Answer without it."


class Stream:
    """The events of an answer whose first has come; iterate once, then close.

    What breaks off is told in the stream: a client never takes a part for the whole.
    """

    def __init__(self, first: bytes, pieces: AsyncGenerator[bytes], metrics: Metrics) -> None:
        self._first = first
        self._pieces = pieces
        self._metrics = metrics
        self.has_ended = False
        """Whether all was said, the news of a failure included."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            yield self._first
            async for piece in self._pieces:
                yield piece
        except UpstreamError as error:
            self._metrics.upstream_errors.labels(error.reason).inc()
            log.warning("an answer broke off: %s", error.reason)
            yield encoded(error_document(error.status, str(error)))
            yield DONE
        self.has_ended = True

    async def aclose(self) -> None:
        """Stop the generation, if it still goes on."""
        await self._pieces.aclose()


class Chat:
    """Answers chat completions; one for all requests of a process."""

    def __init__(
        self,
        upstream: Upstream,
        memory: Memory | None,
        preparation: Preparation,
        *,
        metrics: Metrics,
        max_rounds: int = 4,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._upstream = upstream
        self._memory = memory
        self._preparation = preparation
        self._metrics = metrics
        self._max_rounds = max_rounds
        self._spans = spans

    async def complete(self, ask: Ask) -> tuple[dict[str, Any], Work]:
        """The whole answer.

        Raises:
            UpstreamError: there is none.
        """
        work = await self._preparation.prepared(ask)
        while True:
            try:
                answer = await self._complete(work)
            except OutdatedError as error:
                work = await self._preparation.renewed(work, error.view)
            except UpstreamError as error:
                work = await self._preparation.fitted(work, error)
            else:
                self._finish(work)
                return answer, work

    async def stream(self, ask: Ask) -> tuple[Stream, Work]:
        """The answer's events.

        Raises:
            UpstreamError: there is no first event.
        """
        work = await self._preparation.prepared(ask)
        while True:
            pieces = self._pieces(work)
            try:
                first = await anext(pieces)
            except OutdatedError as error:
                work = await self._preparation.renewed(work, error.view)
            except UpstreamError as error:
                work = await self._preparation.fitted(work, error)
            else:
                return Stream(first, pieces, self._metrics), work

    async def _complete(self, work: Work) -> dict[str, Any]:
        while True:
            async with self._preparation.confirmed(work):
                answer = await self._upstream.ask(work.body, work.ask.headers)
            work.usage = added(work.usage, answer.get("usage"))
            message = _message_of(answer)
            calls = [
                Call(each.get("id") or "", name_of(each), each["function"].get("arguments") or "")
                for each in message.get("tool_calls") or ()
                if name_of(each) in work.ours
            ]
            if not calls:
                break
            if work.rounds == self._max_rounds:
                self._metrics.tool_limit.inc()
                choice = answer["choices"][0]
                choice["message"] = message = without_calls(message, work.ours)
                if "tool_calls" not in message:
                    choice["finish_reason"] = "stop"
                break
            await self._answer(work, message.get("content") or "", calls)
        return {**answer, "usage": work.usage} if work.usage is not None else answer

    async def _pieces(self, work: Work) -> AsyncGenerator[bytes]:
        """The answer's events, the rounds of the memory's tools within them.

        What is looked up is shown when what it led to begins: until then the window may turn
        out to have no room for it, and nothing that was shown can be taken back.
        """
        identity: dict[str, Any] = {}
        shown = b""
        while True:
            answer = Round(work.ours)
            async with aclosing(self._round(work, answer, identity)) as pieces:
                async for piece in pieces:
                    yield shown + piece
                    shown = b""
            work.usage = added(work.usage, answer.usage)
            if not answer.our_calls or work.rounds == self._max_rounds:
                break
            if work.ask.shows_recall:
                shown += _shown(answer.our_calls, work, identity)
            await self._answer(work, answer.content, answer.our_calls)
        if answer.our_calls:
            self._metrics.tool_limit.inc()
        if shown:
            yield shown
        for held in answer.rest():
            yield encoded({**held, **identity})
        if work.context is not None and work.ask.wants_usage and work.usage is not None:
            yield encoded(_usage_chunk(work, identity))
        self._finish(work)
        yield DONE

    async def _round(
        self, work: Work, answer: Round, identity: dict[str, Any]
    ) -> AsyncGenerator[bytes]:
        """What of one answer may be passed on at once."""
        noted = answer if work.context is not None else None
        relay = Relay(noted, identity, is_first=not work.rounds)
        async with AsyncExitStack() as opened:
            async with self._preparation.confirmed(work):
                asking = self._upstream.stream(work.body, work.ask.headers)
                batches = await opened.enter_async_context(asking)
            async for events in batches:
                if passed := relay.take(events):
                    yield passed
                if relay.refusal is not None:
                    raise relay.refusal
                if relay.has_ended:
                    return

    async def _answer(self, work: Work, content: str, calls: Sequence[Call]) -> None:
        """Call the memory as the model asked, and go on with what it said."""
        results = await asyncio.gather(*(self._called(work, call) for call in calls))
        work.rounds += 1
        work.body["messages"] = [*work.body["messages"], *answered(content, calls, results)]
        if work.rounds == self._max_rounds:
            work.body["tools"] = [
                each for each in work.body["tools"] if name_of(each) not in work.ours
            ]
            if not work.body["tools"]:
                del work.body["tools"]
                work.body.pop("tool_choice", None)

    def _finish(self, work: Work) -> None:
        self._metrics.tool_rounds.observe(work.rounds)
        self._preparation.finish(work)

    async def _called(self, work: Work, call: Call) -> str:
        with measured(
            self._spans,
            f"execute_tool {call.name}",
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": call.name,
                "gen_ai.tool.call.id": call.call_id,
                "gen_ai.tool.type": "function",
            },
        ) as span:
            outcome, result = await self._result(work, call)
            span.set({"shepherd.tool.outcome": outcome})
        self._metrics.tool_calls.labels(call.name, outcome).inc()
        return result

    async def _result(self, work: Work, call: Call) -> tuple[str, str]:
        """What came of a call, and what the model is told."""
        assert self._memory is not None
        outcome = "ok"
        arguments = call.parsed()
        if arguments is not None and work.max_results:
            arguments["max_results"] = work.max_results
        if arguments is None:
            outcome, result = "invalid", UNREADABLE
        else:
            try:
                result = await self._memory.call_tool(work.ask.tenant, call.name, arguments)
            except MemoryRefusedError as error:
                outcome, result = "refused", f"Error: {error}"
            except MemoryUnavailableError as error:
                self._preparation.degrade(work, "tool", error)
                outcome, result = "unavailable", UNREACHABLE
        return outcome, result


def _message_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices") or [{}]
    message: dict[str, Any] = choices[0].get("message") or {}
    return message


def _shown(calls: Sequence[Call], work: Work, identity: Mapping[str, Any]) -> bytes:
    looked_up = "; ".join(f"{call.name}({call.arguments})" for call in calls)
    delta = {"role": "assistant", "reasoning_content": f"{looked_up}\n"}
    return encoded(_chunk(work, identity, [{"index": 0, "delta": delta, "finish_reason": None}]))


def _usage_chunk(work: Work, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**_chunk(work, identity, []), "usage": work.usage}


def _chunk(work: Work, identity: Mapping[str, Any], choices: list[Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-shepherd",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": work.body.get("model"),
        "choices": choices,
        **identity,
    }
