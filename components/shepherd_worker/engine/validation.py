"""Whether a request can be served at all, told before any work is done for it."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import EngineFailedError, InvalidRequestError
from shepherd_worker.image import VisionLimits
from shepherd_worker.request import (
    HIGHEST_PRIORITY,
    GenerateRequest,
    Retention,
    Sampling,
    StopConditions,
)

MAX_STOP_STRINGS = 16
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What the model and the engine's size allow."""

    vocab_size: int
    max_seq_len: int
    """Prompt and output together."""
    matches_stop_strings: bool
    """Whether tokens can be turned into text."""
    serves_lora: bool
    vision: VisionLimits | None = None
    """None: the model reads text only."""
    num_ranks: int = 1


def check_request(request: GenerateRequest, limits: RequestLimits) -> None:
    """Refuse what no engine of these limits can do.

    Raises:
        InvalidRequestError: names the first field that is wrong, its value and its limit.
    """
    _check_prompt(request, limits)
    if request.images:
        _check_images(request, limits.vision)
    _check_sampling(request.sampling)
    _check_stops(request.stops, limits)
    if request.logprobs is not None:
        _require(
            0 <= request.logprobs <= MAX_LOGPROBS,
            "logprobs",
            request.logprobs,
            f"0 to {MAX_LOGPROBS}",
        )
    if request.retention is not None:
        _check_retention(request.retention)
    _require(
        request.dp_rank is None or 0 <= request.dp_rank < limits.num_ranks,
        "dp_rank",
        request.dp_rank,
        f"0 to {limits.num_ranks - 1}, a rank of this worker",
    )
    if request.lora_name and not limits.serves_lora:
        raise InvalidRequestError(
            "lora_name", request.lora_name, "none: this engine serves no LoRA adapters"
        )


def count_host_blocks(config: EngineConfig, block_bytes: int) -> int:
    """How many blocks of `block_bytes` the host tier has; 0 is none.

    Raises:
        EngineFailedError: the option's bytes do not hold the two that make a tier.
    """
    num_blocks = config.host_cache_size // block_bytes
    if config.host_cache_size and num_blocks < 2:
        raise EngineFailedError(
            f"host_cache_size={config.host_cache_size} bytes: a host tier has at least 2 blocks, "
            f"of {block_bytes} bytes each"
        )
    return num_blocks


def clip_max_tokens(request: GenerateRequest, max_seq_len: int) -> int:
    """Output tokens that the request asks for and the context has room for."""
    room = max_seq_len - len(request.token_ids)
    wanted = request.stops.max_tokens
    return room if wanted is None else min(wanted, room)


def _check_prompt(request: GenerateRequest, limits: RequestLimits) -> None:
    num_tokens = len(request.token_ids)
    longest = limits.max_seq_len - 1
    _require(
        1 <= num_tokens <= longest,
        "prompt",
        num_tokens,
        f"1 to {longest} tokens: the context holds {limits.max_seq_len}, one of them generated",
    )
    largest = max(request.token_ids)
    _require(
        largest < limits.vocab_size,
        "token_ids",
        largest,
        f"token ids below {limits.vocab_size}, the size of the vocabulary",
    )


def _check_images(request: GenerateRequest, vision: VisionLimits | None) -> None:
    if vision is None:
        raise InvalidRequestError(
            "image_url", f"{len(request.images)} images", "none: this model reads text only"
        )
    placeholder = array("I", [vision.image_token_id])
    stop = 0
    for placed in request.images:
        image = placed.image
        _require(
            image.num_tokens >= 1
            and placed.offset >= stop
            and request.token_ids[placed.offset : placed.stop] == placeholder * image.num_tokens,
            "images",
            placed.span,
            f"placeholders (token {vision.image_token_id}) of its own in the prompt",
        )
        expected = (image.num_tokens, vision.hidden_size)
        _require(
            bool(image.pixels) if image.embeddings is None else image.embeddings.shape == expected,
            "images",
            None if image.embeddings is None else image.embeddings.shape,
            f"pixels, or embeddings of shape {expected}",
        )
        stop = placed.stop


def _check_sampling(sampling: Sampling) -> None:
    temperature, repetition = sampling.temperature, sampling.repetition_penalty
    _require(
        math.isfinite(temperature) and temperature >= 0, "temperature", temperature, ">= 0, finite"
    )
    _require(0 < sampling.top_p <= 1, "top_p", sampling.top_p, "above 0, up to 1")
    _require(sampling.top_k >= 0, "top_k", sampling.top_k, ">= 0, where 0 is off")
    _require(0 <= sampling.min_p <= 1, "min_p", sampling.min_p, "0 to 1")
    _require(
        math.isfinite(repetition) and repetition > 0,
        "repetition_penalty",
        repetition,
        "above 0, finite",
    )
    for field in ("presence_penalty", "frequency_penalty"):
        value: float = getattr(sampling, field)
        _require(-2 <= value <= 2, field, value, "-2 to 2")


def _check_stops(stops: StopConditions, limits: RequestLimits) -> None:
    max_tokens, min_tokens = stops.max_tokens, stops.min_tokens
    _require(max_tokens is None or max_tokens >= 1, "max_tokens", max_tokens, ">= 1")
    _require(
        0 <= min_tokens <= (math.inf if max_tokens is None else max_tokens),
        "min_tokens",
        min_tokens,
        "0 or more" if max_tokens is None else f"0 to max_tokens={max_tokens}",
    )
    _require(
        len(stops.stop) <= MAX_STOP_STRINGS,
        "stop",
        len(stops.stop),
        f"at most {MAX_STOP_STRINGS} stop strings",
    )
    _require(all(stops.stop), "stop", stops.stop, "strings that are not empty")
    _require(
        limits.matches_stop_strings or not stops.stop,
        "stop",
        stops.stop,
        "none: this engine has no tokenizer to find stop strings with",
    )
    wrong = [t for t in stops.stop_token_ids if not 0 <= t < limits.vocab_size]
    _require(
        not wrong,
        "stop_token_ids",
        wrong,
        f"token ids from 0 to {limits.vocab_size - 1}, the vocabulary",
    )


def _check_retention(retention: Retention) -> None:
    for at, covered in enumerate(retention.ranges):
        name = f"retention.ranges[{at}]"
        _require(covered.start >= 0, f"{name}.start", covered.start, ">= 0")
        stops_after = covered.stop is None or covered.stop > covered.start
        _require(stops_after, f"{name}.stop", covered.stop, f"above start={covered.start}, or None")
        _check_priority(f"{name}.priority", covered.priority)
        _check_duration(f"{name}.duration_s", covered.duration_s)
    _check_priority("retention.decode_priority", retention.decode_priority)
    _check_duration("retention.decode_duration_s", retention.decode_duration_s)


def _check_priority(field: str, priority: int) -> None:
    _require(0 <= priority <= HIGHEST_PRIORITY, field, priority, f"0 to {HIGHEST_PRIORITY}")


def _check_duration(field: str, duration_s: float | None) -> None:
    holds = duration_s is None or (math.isfinite(duration_s) and duration_s > 0)
    _require(holds, field, duration_s, "seconds above 0, finite, or None")


def _require(holds: bool, field: str, value: object, expected: str) -> None:
    if not holds:
        raise InvalidRequestError(field, value, expected)
