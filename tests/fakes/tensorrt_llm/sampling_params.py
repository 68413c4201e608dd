"""Sampling, one object per request: the engine writes into it."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator
from typing import Any

from trtllm_backend.schema import dataclass_of

GuidedDecodingParams = dataclass_of("GuidedDecodingParams", __name__)


class _Behaviour:
    """What the real dataclass checks and answers."""

    def __post_init__(self: Any) -> None:
        self.best_of = self.best_of or self.n
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
        if self.best_of < self.n:
            raise ValueError(f"best_of ({self.best_of}) cannot be less than n ({self.n})")
        if self.best_of > 1 and self._greedy and "TLLM_ALLOW_N_GREEDY_DECODING" not in os.environ:
            raise ValueError("Greedy decoding in the LLM API does not allow multiple returns")

    @property
    def _greedy(self: Any) -> bool:
        undefined = self.temperature is None and self.top_k is None and self.top_p is None
        return undefined or self.temperature == 0 or self.top_k == 1 or self.top_p == 0

    def _get_stop_reasons_and_words(self: Any) -> Iterator[tuple[int, list[int]]]:
        for token_id in self.stop_token_ids or ():
            yield token_id, [token_id]


SamplingParams = dataclass_of("SamplingParams", __name__, (_Behaviour,))


class LogitsProcessor(abc.ABC):
    """Base of per-request processors."""

    @abc.abstractmethod
    def __call__(
        self, req_id: int, logits: Any, token_ids: Any, stream_ptr: Any, client_id: Any
    ) -> None:
        raise NotImplementedError


class BatchedLogitsProcessor(abc.ABC):
    """Base of processors of a whole batch."""

    @abc.abstractmethod
    def __call__(
        self, req_ids: Any, logits: Any, token_ids: Any, stream_ptr: Any, client_ids: Any
    ) -> None:
        raise NotImplementedError
