"""A request of TensorRT-LLM as the embedded engine takes it."""

from __future__ import annotations

import pickle
from array import array
from typing import Any

from shepherd_worker.request import (
    GenerateRequest,
    GuidedDecoding,
    ProcessorCall,
    Retention,
    RetentionRange,
    Sampling,
    StopConditions,
)

BRIDGE = "trtllm"


def to_request(
    request_id: int, prompt: list[int], params: Any, lora: Any, salt: str, retention: Any
) -> GenerateRequest:
    """The request as the embedded engine takes it."""
    return GenerateRequest(
        request_id=str(request_id),
        token_ids=array("I", prompt),
        sampling=Sampling(
            temperature=0.0
            if params._greedy
            else (1.0 if params.temperature is None else params.temperature),
            top_p=params.top_p or 1.0,
            top_k=params.top_k or 0,
            min_p=params.min_p or 0.0,
            seed=params.seed,
            repetition_penalty=params.repetition_penalty or 1.0,
            presence_penalty=params.presence_penalty or 0.0,
            frequency_penalty=params.frequency_penalty or 0.0,
        ),
        stops=StopConditions(
            max_tokens=params.max_tokens,
            min_tokens=params.min_tokens or 0,
            stop_token_ids=frozenset(() if params.ignore_eos else params.stop_token_ids or ()),
            eos_token_ids=frozenset({params.end_id} if params.end_id >= 0 else ()),
            ignore_eos=params.ignore_eos,
        ),
        logprobs=params.logprobs,
        cache_salt=salt,
        lora_name="" if lora is None else lora.lora_name,
        retention=None if retention is None else _retention(retention),
        guided=_guided(params.guided_decoding),
        logits_processors=_processors(params.logits_processor),
    )


def _guided(guided: Any) -> GuidedDecoding | None:
    """The one kind that is set."""
    if guided is None:
        return None
    if guided.json_object:
        return GuidedDecoding("json", '{"type": "object"}')
    for kind in ("json", "regex", "grammar", "structural_tag"):
        if (source := getattr(guided, kind)) is not None:
            return GuidedDecoding(kind, source)
    return None


def _processors(given: Any) -> tuple[ProcessorCall, ...]:
    """They travel to the engine's process, as they do there."""
    if given is None:
        return ()
    several = given if isinstance(given, list) else [given]
    sent = [pickle.loads(pickle.dumps(each)) for each in several]
    return tuple(ProcessorCall(BRIDGE, {"processor": each}) for each in sent)


class Bridge:
    """One of TensorRT-LLM's processors, called the way the embedded engine calls its own."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, input_ids: Any, logits: Any) -> None:
        """The logits that it changes are [1, beam width, vocab_size]."""
        self._processor(0, logits.view(1, 1, -1), [list(input_ids)], None, None)


def _retention(config: Any) -> Retention:
    ranges = tuple(
        RetentionRange(
            start=each.token_start,
            stop=each.token_end,
            priority=each.priority,
            duration_s=each.duration_ms and each.duration_ms.total_seconds(),
        )
        for each in config.token_range_retention_configs
    )
    decode_duration = config.decode_duration_ms
    return Retention(
        ranges=ranges,
        decode_priority=config.decode_retention_priority,
        decode_duration_s=decode_duration and decode_duration.total_seconds(),
    )
