"""Results that grow: the object that is iterated over is always the same one."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from trtllm_backend.backend import RequestFailedError, Step
from trtllm_backend.iteration import IterationResult
from trtllm_backend.schema import dataclass_of
from trtllm_backend.variants import VARIANT

from shepherd_worker.request import FinishReason, TokenChunk
from tensorrt_llm.disaggregated_params import DisaggregatedParams
from tensorrt_llm.executor.utils import RequestError

_REASONS = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}


@dataclass(slots=True)
class Logprob:
    """A token's log-probability and rank."""

    logprob: float
    rank: int | None = None


class _Output:
    @property
    def length(self: Any) -> int:
        return len(self.token_ids)

    @property
    def text_diff(self: Any) -> str:
        return ""

    @property
    def token_ids_diff(self: Any) -> list[int]:
        diff: list[int] = self.token_ids[self._last_token_ids_len :]
        return diff

    @property
    def logprobs_diff(self: Any) -> list[Any]:
        diff: list[Any] = self.logprobs[self._last_token_ids_len :]
        return diff


CompletionOutput = dataclass_of("CompletionOutput", __name__, (_Output,))


class GenerationResult:
    """One request's result; awaitable, and iterable in both worlds."""

    def __init__(self, request_id: int, prompt: list[int], params: Any, disagg: Any) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._params = params
        self._outputs = [CompletionOutput(index=0)]
        self._outputs[0]._last_token_ids_len = 0
        self._done = False
        self._aborted = False
        self._abort: Callable[[], None] = lambda: None
        self.disaggregated_params = disagg
        self.cached_tokens = 0
        self.decoding_iter = 0
        self.avg_decoded_tokens_per_iter = None
        self.metrics_dict: dict[str, float] = {}
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.aqueue: asyncio.Queue[Step | Exception] | None = asyncio.Queue()
        self.queue: queue.Queue[Step | Exception] = queue.Queue()

    def deliver(self, step: Step | Exception) -> None:
        """A response; from the backend's thread."""
        if self._loop is None:
            self.queue.put(step)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.aqueue.put_nowait, step)  # type: ignore[union-attr]

    @property
    def request_id(self) -> int:
        return self._request_id

    @property
    def prompt(self) -> None:
        return None

    @property
    def prompt_token_ids(self) -> list[int]:
        return self._prompt

    @property
    def outputs(self) -> list[Any]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    @property
    def context_logits(self) -> None:
        return None

    @property
    def mm_embedding_handle(self) -> None:
        return None

    def abort(self) -> None:
        self._aborted = True
        self._abort()

    def aborted(self) -> bool:
        return self._aborted

    def result(self, timeout: float | None = None) -> GenerationResult:
        while not self._done:
            self._handle(self.queue.get(timeout=timeout))
        return self

    async def aresult(self) -> GenerationResult:
        while not self._done:
            await self._step()
        return self

    def __await__(self) -> Any:
        return self.aresult().__await__()

    def __aiter__(self) -> GenerationResult:
        return self

    async def __anext__(self) -> GenerationResult:
        if self._done:
            raise StopAsyncIteration
        await self._step()
        return self

    def __iter__(self) -> GenerationResult:
        return self

    def __next__(self) -> GenerationResult:
        if self._done:
            raise StopIteration
        self._handle(self.queue.get())
        return self

    async def _step(self) -> None:
        assert self.aqueue is not None
        self._handle(await self.aqueue.get())

    def _handle(self, step: Step | Exception) -> None:
        if isinstance(step, RequestFailedError):
            raise RequestError(str(step))
        if isinstance(step, Exception):
            raise RuntimeError(f"Executor worker failed: {step}") from step  # noqa: TRY004
        self._grow(step.chunk)
        if step.opaque_state is not None:
            self._context_done(step)
        elif step.chunk.finish_reason is not None:
            self._finish(step.chunk)

    def _grow(self, chunk: TokenChunk) -> None:
        output = self._outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids.extend(chunk.token_ids)
        for entry in chunk.logprobs:
            ranked = {
                token: Logprob(value, rank) for rank, (token, value) in enumerate(entry.top, 1)
            }
            output.logprobs.append({entry.token_id: Logprob(entry.logprob, None)} | ranked)
        if chunk.usage is not None:
            self.cached_tokens = chunk.usage.cached_tokens
            metrics = SimpleNamespace(num_reused_blocks=self.cached_tokens)
            output.request_perf_metrics = SimpleNamespace(kv_cache_metrics=metrics)

    def _context_done(self, step: Step) -> None:
        self._done = True
        output = self._outputs[0]
        asked = self.disaggregated_params
        fields = {
            "request_type": "context_only",
            "first_gen_tokens": list(output.token_ids),
            "ctx_request_id": self._request_id,
            "opaque_state": step.opaque_state,
            "disagg_request_id": getattr(asked, "disagg_request_id", None),
        }
        if not hasattr(asked, "disagg_request_id"):
            del fields["disagg_request_id"]
        output.disaggregated_params = DisaggregatedParams(**fields)
        output.finish_reason = "not_finished"

    def _finish(self, chunk: TokenChunk) -> None:
        self._done = True
        output = self._outputs[0]
        if chunk.finish_reason is FinishReason.ERROR:
            raise RequestError("the request failed")
        assert chunk.finish_reason is not None
        output.finish_reason = _REASONS[chunk.finish_reason]
        if chunk.finish_reason is FinishReason.EOS and not VARIANT.shows_end_id:
            output.token_ids.pop()
        if chunk.finish_reason is FinishReason.STOP:
            output.stop_reason = chunk.stop_reason
            if not self._params.include_stop_str_in_output:
                output.token_ids = output.token_ids[:-1]


class RequestOutput(GenerationResult):
    """What `LLM.generate_async` returns."""


__all__ = [
    "CompletionOutput",
    "GenerationResult",
    "IterationResult",
    "Logprob",
    "RequestOutput",
]
