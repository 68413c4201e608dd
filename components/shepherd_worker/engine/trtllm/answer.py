"""TensorRT-LLM's growing outputs, cut into chunks that say each token once.

The object that it yields is the same at every step and its lists grow in place,
or shrink when a stop is cut off: a cursor of our own says how far we have read.
Our conditions are applied to what is read, so that a sequence ends alike on
every engine, also where TensorRT-LLM went on.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from typing import Any

from shepherd_worker.request import (
    FinishReason,
    GenerateRequest,
    TokenChunk,
    TokenLogprob,
    Usage,
)

log = logging.getLogger(__name__)

_REASONS = {
    "length": FinishReason.LENGTH,
    "cancelled": FinishReason.CANCELLED,
    "timeout": FinishReason.ERROR,
}


class Answer:
    """One sequence's output so far."""

    def __init__(
        self,
        request: GenerateRequest,
        *,
        max_tokens: int,
        eos_token_ids: frozenset[int],
        find_stop: Callable[[int], str | None] | None = None,
    ) -> None:
        """`find_stop` takes each token and gives the stop string that it completes."""
        self.token_ids = array("I")
        """Everything that was told, the token that ended it included."""
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._request = request
        self._max_tokens = max_tokens
        self._eos = frozenset() if request.stops.ignore_eos else eos_token_ids
        self._find_stop = find_stop
        self._stop_reason: str | int | None = None

    def read(self, result: Any) -> TokenChunk | None:
        """What a step added; None where it added nothing and the sequence goes on."""
        output = result.outputs[0]
        cursor = len(self.token_ids)
        self.cached_tokens = max(self.cached_tokens, result.cached_tokens)
        for token_id in output.token_ids[cursor:]:
            self.token_ids.append(token_id)
            self._end_at(token_id)
            if self.finish_reason is not None:
                break
        if self.finish_reason is None and result.finished:
            self._end_as(output)
        if len(self.token_ids) == cursor and self.finish_reason is None:
            return None
        return self._chunk(cursor, self._logprobs(output, cursor))

    def end(self, reason: FinishReason) -> TokenChunk:
        """The last chunk of a sequence that TensorRT-LLM will say no more of."""
        self.finish_reason = reason
        return self._chunk(len(self.token_ids), ())

    def usage(self) -> Usage:
        """The bill so far."""
        num_prompt = len(self._request.token_ids)
        return Usage(num_prompt, min(self.cached_tokens, num_prompt), len(self.token_ids))

    def _end_at(self, token_id: int) -> None:
        """Whether our conditions end the sequence with this token."""
        stops, num_tokens = self._request.stops, len(self.token_ids)
        stop_string = self._find_stop(token_id) if self._find_stop is not None else None
        if num_tokens > stops.min_tokens:
            if token_id in self._eos:
                self.finish_reason = FinishReason.EOS
            elif token_id in stops.stop_token_ids:
                self.finish_reason, self._stop_reason = FinishReason.STOP, token_id
            elif stop_string is not None:
                self.finish_reason, self._stop_reason = FinishReason.STOP, stop_string
        if self.finish_reason is None and num_tokens >= self._max_tokens:
            self.finish_reason = FinishReason.LENGTH

    def _end_as(self, output: Any) -> None:
        """Why TensorRT-LLM ended the sequence; `not_finished` is a prompt for another worker."""
        said = output.finish_reason
        if said == "not_finished":
            return
        if said == "stop":
            self._stop_reason = output.stop_reason
            ended_by_eos = self._stop_reason is None or self._stop_reason in self._eos
            self.finish_reason = FinishReason.EOS if ended_by_eos else FinishReason.STOP
            self._stop_reason = None if ended_by_eos else self._stop_reason
            return
        if said not in _REASONS:
            log.warning("TensorRT-LLM ended a request without a reason that we know: %r", said)
        self.finish_reason = _REASONS.get(said, FinishReason.STOP)

    def _chunk(self, cursor: int, logprobs: tuple[TokenLogprob, ...]) -> TokenChunk:
        last = self.finish_reason is not None
        return TokenChunk(
            tuple(self.token_ids[cursor:]),
            logprobs,
            self.finish_reason,
            self._stop_reason,
            self.usage() if last else None,
        )

    def _logprobs(self, output: Any, cursor: int) -> tuple[TokenLogprob, ...]:
        """One entry per new token, where the request asked for them and the engine has them."""
        num_top = self._request.logprobs
        if num_top is None:
            return ()
        entries = output.logprobs[cursor : len(self.token_ids)]
        new = self.token_ids[cursor:]
        return tuple(
            _logprob(token, entry, num_top) for token, entry in zip(new, entries, strict=False)
        )


def _logprob(token_id: int, entry: Any, num_top: int) -> TokenLogprob:
    """An entry is a table of candidates, or in a newer form the chosen token's value alone."""
    if not isinstance(entry, dict):
        return TokenLogprob(token_id, float(entry))
    values: dict[int, float] = {token: value.logprob for token, value in entry.items()}
    best = sorted(values.items(), key=lambda candidate: -candidate[1])[:num_top]
    return TokenLogprob(token_id, values[token_id], tuple(best))
