"""transformers' own two ways to answer many prompts: `generate`, and continuous batching."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.workload import Timing

PAGE_SIZE_FIELD = "page_size" if hasattr(ContinuousBatchingConfig, "page_size") else "block_size"
"""Its name until transformers 5.17 was the other one."""

_PATIENCE_S = 600
"""Its results come only when a request has ended."""


class Hears(StoppingCriteria):  # type: ignore[misc] # transformers is not typed
    """Asked after each step of a batch; notes the time and stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_other: Any) -> torch.Tensor:
        """See `StoppingCriteria`."""
        del scores
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def load(directory: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """The model, as transformers runs it by default."""
    return LlamaForCausalLM.from_pretrained(directory, dtype=dtype).to(device).eval()


def generate(model: Any, prompts: list[list[int]], new_tokens: int) -> Timing:
    """One call for prompts of one length; every step brings one token for each."""
    ids = torch.tensor(prompts)
    hears = Hears()
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([hears]),
        )
    times = tuple(at - began for at in hears.times)
    return Timing((times,) * len(prompts))


class ContinuousBatching:
    """A running manager; its cache is as large as ours."""

    def __init__(
        self,
        model: Any,
        *,
        num_tokens: int,
        max_batch_size: int,
        max_batch_tokens: int = 512,
        page_size: int = 32,
    ) -> None:
        settings = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self._manager = model.init_continuous_batching(
            generation_config=settings,
            continuous_batching_config=ContinuousBatchingConfig(
                **{PAGE_SIZE_FIELD: page_size},
                num_blocks=num_tokens // page_size,
                max_batch_tokens=max_batch_tokens,
                max_requests_per_batch=max_batch_size,
            ),
        )
        self._manager.start()

    def ask(self, prompts: list[list[int]], new_tokens: int) -> Timing:
        """Submit all prompts at once."""
        began = time.perf_counter()
        waiting = set(
            self._manager.add_requests(prompts, max_new_tokens=new_tokens, record_timestamps=True)
        )
        done = []
        while waiting:
            result = self._manager.get_result(timeout=_PATIENCE_S)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result and result.error}")
            waiting.discard(result.request_id)
            done.append(tuple(at - began for at in result.timestamps))
        return Timing(tuple(done))

    def close(self) -> None:
        """End its thread."""
        self._manager.stop(block=True)


def prompt_lookup(model: Any, prompt: list[int], new_tokens: int, *, max_draft: int) -> float:
    """Seconds to answer one prompt with guesses from its own text."""
    ids = torch.tensor([prompt])
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            prompt_lookup_num_tokens=max_draft,
        )
    return time.perf_counter() - began
