"""Dynamo's dictionaries at the worker's door, and the dataclasses behind it.

Dynamo sends unset fields as null and may leave out whole tables; newer versions
add keys that an older worker does not know.  Null means the default here, and
unknown keys are ignored.  The JSON Schemas in `schemas/` are made from the
dataclasses of this file by `schemas.py`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from shepherd_worker.engine.protocol import Handoff
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import (
    Choices,
    GenerateRequest,
    Sampling,
    StopConditions,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from shepherd_worker.wire_steering import WireGuidedDecoding, to_guided, to_processor_calls


@dataclass(frozen=True, slots=True)
class WireStopConditions:
    """`stop_conditions` of a request."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    stop_token_ids_hidden: list[int] | None = None
    ignore_eos: bool | None = None


@dataclass(frozen=True, slots=True)
class WireSamplingOptions:
    """`sampling_options` of a request."""

    n: int | None = None
    best_of: int | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    guided_decoding: WireGuidedDecoding | None = None


@dataclass(frozen=True, slots=True)
class WireOutputOptions:
    """`output_options` of a request."""

    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class WireRouting:
    """`routing` of a request."""

    cache_salt: str | None = None
    lora_name: str | None = None
    dp_rank: int | None = None
    """Chosen by Dynamo's KV router, which knows what each rank's cache holds."""


@dataclass(frozen=True, slots=True)
class WireAgentContext:
    """`agent_context` of a request: the conversation it belongs to."""

    session_id: str | None = None
    parent_session_id: str | None = None
    session_final: bool | None = None


@dataclass(frozen=True, slots=True)
class WirePrefillResult:
    """`prefill_result` of a decode request: what the prefill worker answered."""

    disaggregated_params: dict[str, Any] | None = None
    prompt_tokens_details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WireRequest:
    """The request dictionary that Dynamo's frontend sends for `ModelInput.Tokens`."""

    token_ids: list[int]
    stop_conditions: WireStopConditions | None = None
    sampling_options: WireSamplingOptions | None = None
    output_options: WireOutputOptions | None = None
    eos_token_ids: list[int] | None = None
    routing: WireRouting | None = None
    agent_context: WireAgentContext | None = None
    prefill_result: WirePrefillResult | None = None
    annotations: list[str] | None = None
    multi_modal_data: dict[str, list[dict[str, Any]]] | None = None
    """By kind of part, such as `image_url`; a part is `{"Url": "..."}`."""


@dataclass(frozen=True, slots=True)
class WireUsage:
    """`completion_usage` of a chunk."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WireChunk:
    """The chunk dictionary that Dynamo's frontend accepts."""

    token_ids: list[int]
    index: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    log_probs: list[float] | None = None
    top_logprobs: list[list[dict[str, Any]]] | None = None
    completion_usage: WireUsage | None = None
    disaggregated_params: dict[str, Any] | None = None


T = TypeVar("T")
MAX_CHOICES = 128
"""As many as OpenAI allows."""
_REQUEST = TypeAdapter(WireRequest)
_HANDOFF = TypeAdapter(Handoff)


def parse_request(request: dict[str, Any]) -> WireRequest:
    """Read a request dictionary.

    Raises:
        InvalidRequestError: a field has the wrong type.
    """
    if isinstance(request.get("token_ids"), bytes):
        packed = array("I")
        packed.frombytes(request["token_ids"])
        request = {**request, "token_ids": packed.tolist()}
    try:
        return _REQUEST.validate_python(request)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(name, first["input"], first["msg"]) from None


def is_canary(request: dict[str, Any]) -> bool:
    """Whether Dynamo itself asks, to see if the worker still answers."""
    return bool(request.get("_HEALTH_CHECK"))


def to_generate_request(wire: WireRequest, request_id: str) -> GenerateRequest:
    """What the engine is asked for; the caller adds the origin.

    Raises:
        InvalidRequestError: a token id that fits no 32 bits, something that cannot be answered
            through Dynamo, or a grammar or arguments of a logits processor that cannot be read.
    """
    options = wire.sampling_options or WireSamplingOptions()
    routing = wire.routing or WireRouting()
    output = wire.output_options or WireOutputOptions()
    _refuse_what_has_no_answer(options, output)
    return GenerateRequest(
        request_id=request_id,
        token_ids=_token_array(wire.token_ids),
        sampling=_sampling(options),
        stops=_stops(wire),
        logprobs=output.logprobs,
        guided=to_guided(options.guided_decoding),
        logits_processors=to_processor_calls(wire.annotations or ()),
        cache_salt=routing.cache_salt or "",
        lora_name=routing.lora_name or "",
        dp_rank=routing.dp_rank,
    )


def to_choices(wire: WireRequest) -> Choices:
    """How many answers are wanted.

    Raises:
        InvalidRequestError: none, too many, or the best of fewer than are wanted.
    """
    options = wire.sampling_options or WireSamplingOptions()
    num = _or(options.n, 1)
    of = _or(options.best_of, num)
    if not 1 <= num <= MAX_CHOICES:
        raise InvalidRequestError("n", num, f"1 to {MAX_CHOICES}")
    if not num <= of <= MAX_CHOICES:
        raise InvalidRequestError("best_of", of, f"{num}, as n is, to {MAX_CHOICES}")
    return Choices(num, of)


def _refuse_what_has_no_answer(options: WireSamplingOptions, output: WireOutputOptions) -> None:
    """Dynamo's frontend passes these on, or other senders do; silence would be a wrong answer."""
    if options.use_beam_search:
        raise InvalidRequestError("use_beam_search", True, "false: beams are not streamed")
    if options.length_penalty not in {None, 1.0}:
        raise InvalidRequestError(
            "length_penalty", options.length_penalty, "1: it means something to beams only"
        )
    if output.prompt_logprobs is not None:
        raise InvalidRequestError(
            "prompt_logprobs",
            output.prompt_logprobs,
            "none, and no echo beside logprobs: Dynamo's answers have no place for them",
        )


def _token_array(token_ids: list[int]) -> array[int]:
    try:
        return array("I", token_ids)
    except OverflowError:
        wrong = next(t for t in token_ids if not 0 <= t < 2**32)
        raise InvalidRequestError("token_ids", wrong, "token ids >= 0") from None


def _sampling(options: WireSamplingOptions) -> Sampling:
    default = Sampling()
    top_k = default.top_k if options.top_k in {None, -1} else options.top_k
    return Sampling(
        temperature=_or(options.temperature, default.temperature),
        top_p=_or(options.top_p, default.top_p),
        top_k=_or(top_k, default.top_k),
        min_p=_or(options.min_p, default.min_p),
        seed=options.seed,
        repetition_penalty=_or(options.repetition_penalty, default.repetition_penalty),
        presence_penalty=_or(options.presence_penalty, default.presence_penalty),
        frequency_penalty=_or(options.frequency_penalty, default.frequency_penalty),
    )


def _stops(wire: WireRequest) -> StopConditions:
    stops = wire.stop_conditions or WireStopConditions()
    return StopConditions(
        max_tokens=stops.max_tokens,
        min_tokens=stops.min_tokens or 0,
        stop=tuple(stops.stop or ()),
        stop_token_ids=frozenset(stops.stop_token_ids or ()),
        eos_token_ids=frozenset(
            (*(wire.eos_token_ids or ()), *(stops.stop_token_ids_hidden or ()))
        ),
        ignore_eos=bool(stops.ignore_eos),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def render_chunk(chunk: TokenChunk, index: int = 0) -> dict[str, Any]:
    """The dictionary of one chunk of a choice; unset fields are left out."""
    out: dict[str, Any] = {"token_ids": list(chunk.token_ids), "index": index}
    if chunk.logprobs:
        out["log_probs"] = [entry.logprob for entry in chunk.logprobs]
        out["top_logprobs"] = [_alternatives(entry) for entry in chunk.logprobs]
    if chunk.finish_reason is not None:
        out["finish_reason"] = chunk.finish_reason.value
    if chunk.stop_reason is not None:
        out["stop_reason"] = chunk.stop_reason
    if chunk.usage is not None:
        out["completion_usage"] = _usage(chunk.usage)
    return out


def _alternatives(entry: TokenLogprob) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "token_id": token_id, "token": None, "logprob": logprob}
        for rank, (token_id, logprob) in enumerate(entry.top, start=1)
    ]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def render_handoff(handoff: Handoff) -> dict[str, Any]:
    """`disaggregated_params`, as the frontend carries it to the decode worker."""
    dumped: dict[str, Any] = _HANDOFF.dump_python(handoff, mode="json")
    return dumped


def parse_handoff(params: dict[str, Any]) -> Handoff:
    """Read what `render_handoff` wrote.

    Raises:
        InvalidRequestError: a prefill worker of another kind wrote it.
    """
    try:
        return _HANDOFF.validate_python(params)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(("disaggregated_params", *(str(part) for part in first["loc"])))
        raise InvalidRequestError(name, first["input"], first["msg"]) from None
