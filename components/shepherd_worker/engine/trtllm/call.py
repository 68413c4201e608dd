"""One request on its way through TensorRT-LLM, in a task of its own.

    submit -> results, each read at once -> chunks in a queue -> whoever reads them

The task reads every step, so that a slow reader holds nothing up, and it
outlives the reader where it must: TensorRT-LLM's KV transfer cannot be aborted
before its first token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from shepherd_worker.engine.trtllm.answer import Answer
from shepherd_worker.engine.trtllm.poller import Poller
from shepherd_worker.engine.trtllm.ranks import Ledgers
from shepherd_worker.engine.trtllm.tracks import Track
from shepherd_worker.errors import InvalidRequestError, WorkerError
from shepherd_worker.request import FinishReason, TokenChunk, joined

log = logging.getLogger(__name__)

Submit = Callable[[Any], Any]
"""Takes disaggregated parameters, or None, and gives TensorRT-LLM's result object."""


class Observer(Protocol):
    """Who wants to know how calls go; called on the event loop."""

    def progressed(self, call: Call, num_tokens: int, num_cached: int) -> None:
        """So many more tokens, and so many more of the prompt's found in the cache."""
        ...

    def transfer_failed(self, call: Call) -> None:
        """The KV of a prompt was not received; it is computed here."""
        ...

    def ended(self, call: Call) -> None:
        """Nothing follows."""
        ...

    def broke(self, error: BaseException) -> None:
        """TensorRT-LLM raised what is not a single request's affair."""
        ...


class Call:
    """See the module's docstring; event loop only."""

    def __init__(
        self,
        submit: Submit,
        answer: Answer,
        track: Track,
        poller: Poller,
        *,
        received: Any,
        request_error: type[Exception],
        observer: Observer,
    ) -> None:
        """`received` are the parameters of a prompt that another worker computed, or None."""
        self.answer = answer
        self.track = track
        self.received = received
        self.result: Any = None
        """TensorRT-LLM's, once submitted."""
        self._submit = submit
        self._poller = poller
        self._request_error = request_error
        self._observer = observer
        self._chunks: asyncio.Queue[TokenChunk | WorkerError] = asyncio.Queue()
        self._unwanted = False
        self._refused = False
        self._concluded = False
        poller.note(partial(_add, track=track))
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda _: self._conclude())

    async def next(self) -> TokenChunk:
        """Everything that came since the last call, as one chunk; at least one.

        Raises:
            WorkerError: the request, or the engine, failed.
        """
        items = [await self._chunks.get()]
        while not self._chunks.empty():
            items.append(self._chunks.get_nowait())
        chunks: list[TokenChunk] = []
        for item in items:
            if isinstance(item, WorkerError):
                raise item
            chunks.append(item)
        return joined(chunks)

    def close(self) -> None:
        """Nobody reads any more: end the request as soon as TensorRT-LLM lets it end."""
        self._unwanted = True
        transferring = self.received is not None and not self.answer.token_ids
        if not self._task.done() and not transferring:
            self._task.cancel()

    def abandon(self, error: WorkerError) -> None:
        """The engine is gone: tell the reader, ask nothing of TensorRT-LLM."""
        self._chunks.put_nowait(error)
        self.result = None
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until nothing of the request is left, here."""
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            await self._follow_or_compute()
        except InvalidRequestError as error:
            self._refused = True
            self._chunks.put_nowait(error)
        except self._request_error as error:
            log.warning("TensorRT-LLM refused a request: %s", error)
            self._chunks.put_nowait(self.answer.end(FinishReason.ERROR))
        except Exception as error:  # noqa: BLE001 - whatever else is raised is the engine's end
            self._observer.broke(error)
        finally:
            self._conclude()

    async def _follow_or_compute(self) -> None:
        """A prompt whose KV does not come is computed here."""
        try:
            await self._follow(self.received)
        except self._request_error as error:
            if self.received is None or self.answer.token_ids:
                raise
            log.warning("a prompt is computed here, its KV was not received: %s", error)
            self.received = None
            self._observer.transfer_failed(self)
            await self._follow(None)

    async def _follow(self, received: Any) -> None:
        """Submit, and read until the end."""
        self.result = self._submit(received)
        self._poller.begin()
        async for result in self.result:
            self._read(result)
            if self._unwanted or self.answer.finish_reason is not None or result.finished:
                return
        self._chunks.put_nowait(self.answer.end(FinishReason.ERROR))

    def _read(self, result: Any) -> None:
        num_told, num_cached = len(self.answer.token_ids), self.answer.cached_tokens
        chunk = self.answer.read(result)
        new = self.answer.token_ids[num_told:]
        if new:
            self._poller.note(partial(_extend, track=self.track, token_ids=new))
        if self.answer.cached_tokens > num_cached:
            self._poller.found(self.track, self.answer.cached_tokens)
        self._observer.progressed(self, len(new), self.answer.cached_tokens - num_cached)
        if chunk is not None or result.finished:
            self._chunks.put_nowait(chunk or TokenChunk(()))

    def _conclude(self) -> None:
        """Once, when the task ends, or was cancelled before it began."""
        if self._concluded:
            return
        self._concluded = True
        result, reason = self.result, self.answer.finish_reason
        if result is not None and not result.finished:
            with contextlib.suppress(Exception):  # an engine that is gone has nothing to abort
                result.abort()
        if reason is None:
            finished = result is not None and result.finished
            reason = FinishReason.LENGTH if finished else FinishReason.CANCELLED
        if self._refused:
            self._poller.note(partial(_remove, track=self.track))
        else:
            finish = partial(
                Ledgers.finish,
                track=self.track,
                reason=reason,
                num_cached=self.answer.usage().cached_tokens,
                deadline=self._poller.deadline(),
            )
            self._poller.note(finish)
        self._observer.ended(self)


def _add(ledgers: Ledgers, track: Track) -> None:
    ledgers.tracks.add(track)


def _extend(ledgers: Ledgers, track: Track, token_ids: Any) -> None:
    ledgers.tracks.extend(track, token_ids)


def _remove(ledgers: Ledgers, track: Track) -> None:
    ledgers.tracks.remove(track)
