"""What a request asks and what an answer consists of, inside the worker.

Knows nothing of Dynamo's dictionaries: `wire.py` translates at the edge.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from shepherd_events.events import Attribution
from shepherd_worker.image import ImageInput


class FinishReason(StrEnum):
    """Why a sequence ended; the values are Dynamo's."""

    STOP = "stop"
    """A stop string or stop token was generated, or the grammar's text is complete."""
    EOS = "eos"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    seed: int | None = None
    """None draws a fresh one."""
    repetition_penalty: float = 1.0
    """Over prompt and output, as transformers has it; 1 is off."""
    presence_penalty: float = 0.0
    """Over the output, as OpenAI has it; 0 is off."""
    frequency_penalty: float = 0.0

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def penalised(self) -> bool:
        """Whether tokens that were seen count less, or more, than the others."""
        return (
            self.repetition_penalty != 1
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConditions:
    """When a sequence ends."""

    max_tokens: int | None = None
    """None: as many as the context has room for."""
    min_tokens: int = 0
    """Neither end-of-sequence nor a stop condition ends the sequence before."""
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    eos_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


DEFAULT_PRIORITY = 35
"""Of a block that no range covers, or whose range's time is over."""
HIGHEST_PRIORITY = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRange:
    """How much the KV of prompt tokens [start, stop) is worth keeping."""

    start: int
    stop: int | None
    """None: up to the prompt's end."""
    priority: int
    """0 to 100; blocks of lower priority are evicted first."""
    duration_s: float | None = None
    """Seconds from a block's last use after which it has the default priority; None is for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much a request's KV is worth keeping; what it does not cover stays as it is.

    A block takes the highest priority of what covers one of its tokens, the
    longest duration among equals.  A block that several requests share has what
    the last one of them that covers it said.

    Source: `KvCacheRetentionConfig` of TensorRT-LLM's LLM API, whose ranges must not overlap.
    """

    ranges: tuple[RetentionRange, ...] = ()
    decode_priority: int = DEFAULT_PRIORITY
    """Of generated tokens."""
    decode_duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class GuidedDecoding:
    """What the answer's text must be."""

    kind: Literal["json", "regex", "choice", "grammar", "structural_tag"]
    source: str
    """A JSON Schema, a regular expression, a JSON list of strings, a Lark grammar, or tags as JSON."""
    whitespace: str | None = None
    """A regular expression for the white space between JSON tokens; None bounds its length only."""


@dataclass(frozen=True, slots=True)
class ProcessorCall:
    """A logits processor that a request asks for."""

    name: str
    """As the operator loaded it."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What its factory is called with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One call of the engine."""

    request_id: str
    """Dynamo's context id; not unique while a request is retried, so engines must not key on it."""
    token_ids: array[int]
    """The prompt, typecode "I", at least one token."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: StopConditions = field(default_factory=StopConditions)
    logprobs: int | None = None
    """Alternatives reported beside each chosen token; 0 reports the chosen one only, None nothing."""
    images: tuple[ImageInput, ...] = ()
    """Images at their places in `token_ids`, in order; none for text."""
    guided: GuidedDecoding | None = None
    logits_processors: tuple[ProcessorCall, ...] = ()
    """Applied in this order."""
    cache_salt: str = ""
    """Enters the root of the block hash: requests with different salts share no block."""
    lora_name: str = ""
    dp_rank: int | None = None
    """The attention-parallel rank that must compute it; None lets the engine choose."""
    retention: Retention | None = None
    """None leaves every block as it is, new ones at the default priority."""
    origin: Attribution | None = None
    """Carried unchanged into the cache events that this request causes."""


@dataclass(frozen=True, slots=True)
class Choices:
    """How many answers to one prompt are wanted."""

    num: int = 1
    of: int = 1
    """Answers that are generated, at least `num`; the likeliest of them are told."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a chosen token, and its best alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), most likely first."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts for the client's bill."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose KV was found and not computed."""
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """The tokens that became ready together, in order; never cumulative."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """One per token where the request asked for them, else empty."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk of a sequence and on no other."""
    stop_reason: str | int | None = None
    """The stop string or token id that ended the sequence."""
    usage: Usage | None = None
    """Set on the last chunk."""


def joined(chunks: Sequence[TokenChunk]) -> TokenChunk:
    """Consecutive chunks of one sequence as one; at least one."""
    last = chunks[-1]
    if len(chunks) == 1:
        return last
    return replace(
        last,
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
    )
