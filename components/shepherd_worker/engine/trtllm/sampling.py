"""From a request to TensorRT-LLM's sampling parameters; a fresh object each, since it writes into them.

Who ends a sequence: TensorRT-LLM on the tokens that end it, so that it computes
nothing beyond; `answer.py` on everything else (stop strings, and end tokens
that `min_tokens` would let through too early).  The token that ended a
sequence is kept in its output, as every engine of ours does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from shepherd_worker.engine.trtllm.library import Library, fields_of, known_only
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GenerateRequest, GuidedDecoding

NO_TOKEN = -1
"""As `end_id`: no token ends the sequence."""


def sampling_params(
    library: Library,
    request: GenerateRequest,
    *,
    max_tokens: int,
    eos_token_ids: frozenset[int],
    logits_processor: Any = None,
) -> Any:
    """The parameters of one call of `generate_async`.

    Raises:
        InvalidRequestError: TensorRT-LLM has no such kind of sampling.
    """
    wanted: dict[str, Any] = {
        "max_tokens": max_tokens,
        "include_stop_str_in_output": True,
        "detokenize": False,
        "return_perf_metrics": True,
        **_ends(request, eos_token_ids),
        **_choice(request),
    }
    if request.logprobs is not None:
        wanted["logprobs"] = max(1, request.logprobs)
    if request.guided is not None:
        wanted["guided_decoding"] = _guided(library, request.guided)
    if logits_processor is not None:
        wanted["logits_processor"] = logits_processor
    kind = library.SamplingParams
    try:
        return kind(**known_only(wanted, fields_of(kind), "SamplingParams"))
    except ValueError as error:
        raise InvalidRequestError(
            "sampling_options", str(error), "what TensorRT-LLM takes"
        ) from None


def _ends(request: GenerateRequest, eos_token_ids: frozenset[int]) -> dict[str, Any]:
    """Which tokens end the sequence; `ignore_eos` of TensorRT-LLM would ignore stop tokens too."""
    stops = request.stops
    ending = () if stops.ignore_eos else tuple(sorted(eos_token_ids))
    also = {*ending[1:], *stops.stop_token_ids}
    ends: dict[str, Any] = {
        "end_id": ending[0] if ending else NO_TOKEN,
        "pad_id": ending[0] if ending else 0,
    }
    if stops.min_tokens and ending:
        ends["min_tokens"] = stops.min_tokens
    elif also and not stops.min_tokens:
        ends["stop_token_ids"] = sorted(also)
    if not ending and not also:
        ends["ignore_eos"] = True
    return ends


def _choice(request: GenerateRequest) -> Mapping[str, Any]:
    """How a token is chosen; what is off is left at TensorRT-LLM's default."""
    sampling = request.sampling
    if sampling.greedy:
        chosen: dict[str, Any] = {"temperature": 0.0, "top_k": 1}
    else:
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        chosen |= {"top_k": sampling.top_k} if sampling.top_k else {}
        chosen |= {"min_p": sampling.min_p} if sampling.min_p else {}
    chosen |= {} if sampling.seed is None else {"seed": sampling.seed % 2**64}
    penalties = {
        "repetition_penalty": (sampling.repetition_penalty, 1.0),
        "presence_penalty": (sampling.presence_penalty, 0.0),
        "frequency_penalty": (sampling.frequency_penalty, 0.0),
    }
    return chosen | {name: value for name, (value, off) in penalties.items() if value != off}


def _guided(library: Library, guided: GuidedDecoding) -> Any:
    """Exactly one of TensorRT-LLM's kinds; a choice is a regular expression there."""
    if guided.whitespace is not None:
        raise InvalidRequestError(
            "guided_whitespace_pattern", guided.whitespace, "none: TensorRT-LLM has no such setting"
        )
    if guided.kind == "choice":
        words = json.loads(guided.source)
        return library.GuidedDecodingParams(regex="|".join(f"({re.escape(w)})" for w in words))
    return library.GuidedDecodingParams(**{guided.kind: guided.source})
