"""From a request to the call of `generate_async` that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from shepherd_events.block_hash import root_hash, salt_id
from shepherd_events.events import CacheContext
from shepherd_worker.engine.embedded.stop_strings import StopStrings
from shepherd_worker.engine.protocol import EngineConfig, EngineInfo
from shepherd_worker.engine.trtllm.answer import Answer
from shepherd_worker.engine.trtllm.images import inputs_of
from shepherd_worker.engine.trtllm.library import Library
from shepherd_worker.engine.trtllm.logits import ProcessorDoor
from shepherd_worker.engine.trtllm.sampling import sampling_params
from shepherd_worker.engine.trtllm.tracks import Track
from shepherd_worker.engine.validation import RequestLimits, check_request, clip_max_tokens
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import VisionLimits
from shepherd_worker.request import GenerateRequest, Retention


class Submissions:
    """Makes calls for one started engine."""

    def __init__(
        self,
        llm: Any,
        library: Library,
        config: EngineConfig,
        info: EngineInfo,
        tokenizer: Tokenizer | None,
        vision: VisionLimits | None,
    ) -> None:
        self._llm = llm
        self._library = library
        self._config = config
        self._info = info
        self._tokenizer = tokenizer
        self._adapters = _adapters(config.trtllm.lora_directory)
        self._door = ProcessorDoor(
            library,
            config.logits_processors,
            config.tokenizer or info.model_directory,
            test=config.test_logits_processor,
        )
        self.limits = RequestLimits(
            vocab_size=info.vocab_size,
            max_seq_len=info.max_seq_len,
            matches_stop_strings=tokenizer is not None,
            serves_lora=bool(self._adapters),
            vision=vision,
            num_ranks=info.num_ranks,
        )

    def check(self, request: GenerateRequest) -> None:
        """Refuse what this engine cannot do.

        Raises:
            InvalidRequestError: names the field, its value and what it may be.
        """
        check_request(request, self.limits)
        self._door.processor(request.logits_processors)
        if request.lora_name and request.lora_name not in self._adapters:
            raise InvalidRequestError("lora_name", request.lora_name, ", ".join(self._adapters))
        if request.guided is not None and self._config.trtllm.guided_decoding_backend == "none":
            raise InvalidRequestError(
                "guided_decoding", request.guided.kind, "none: --guided-decoding-backend is none"
            )
        if request.cache_salt and "cache_salt" not in self._library.generate_arguments:
            raise InvalidRequestError(
                "cache_salt", "...", "none: this TensorRT-LLM cannot keep tenants apart"
            )

    def answer(self, request: GenerateRequest) -> Answer:
        """What reads the request's outputs."""
        stops = request.stops.stop
        watched = StopStrings(self._tokenizer, stops) if stops and self._tokenizer else None
        return Answer(
            request,
            max_tokens=self._max_tokens(request),
            eos_token_ids=self._eos(request),
            find_stop=None if watched is None else watched.push,
        )

    def track(self, request: GenerateRequest, started_unix_ns: int) -> Track:
        """What recognises the request's blocks."""
        return Track(
            context=CacheContext(request.lora_name, salt_id(request.cache_salt)),
            root=root_hash(
                self._info.model_fingerprint,
                lora_name=request.lora_name,
                cache_salt=request.cache_salt,
            ),
            token_ids=request.token_ids[:],
            origin=request.origin,
            started_unix_ns=started_unix_ns,
            media=tuple(placed.span for placed in request.images),
            rank=request.dp_rank if self._info.num_ranks > 1 else 0,
        )

    def submit(
        self, request: GenerateRequest, *, streaming: bool, prefilled: Sequence[int] | None = None
    ) -> Callable[[Any], Any]:
        """What submits the request, with disaggregated parameters or None.

        `prefilled` is the prompt as the engine of a prefill worker expanded it.
        """
        return partial(self._submit, request, streaming, prefilled)

    def _submit(
        self,
        request: GenerateRequest,
        streaming: bool,
        prefilled: Sequence[int] | None,
        disaggregated: Any,
    ) -> Any:
        """Submit now.

        Raises:
            InvalidRequestError: TensorRT-LLM refuses the request as it is.
        """
        params = sampling_params(
            self._library,
            request,
            max_tokens=self._max_tokens(request),
            eos_token_ids=self._eos(request),
            logits_processor=self._door.processor(request.logits_processors),
        )
        computed = getattr(disaggregated, "request_type", None) == "generation_only"
        if computed and prefilled is not None:
            inputs: Any = list(prefilled)
        else:
            inputs = inputs_of(request, self._tokenizer)
        try:
            return self._llm.generate_async(
                inputs,
                params,
                streaming=streaming,
                disaggregated_params=disaggregated,
                **self.extras(request),
            )
        except (ValueError, self._library.RequestError) as error:
            raise InvalidRequestError(
                "request", request.request_id, f"what TensorRT-LLM takes: {error}"
            ) from None

    def extras(self, request: GenerateRequest) -> dict[str, Any]:
        """The arguments of `generate_async` that only some requests have."""
        extras: dict[str, Any] = self._placement(request)
        if request.cache_salt:
            extras["cache_salt"] = request.cache_salt
        if request.lora_name:
            extras["lora_request"] = self._library.LoRARequest(
                request.lora_name, *self._adapters[request.lora_name]
            )
        if request.retention is not None and self._library.KvCacheRetentionConfig is not None:
            extras["kv_cache_retention_config"] = self._retention(request.retention)
        return extras

    def _placement(self, request: GenerateRequest) -> dict[str, Any]:
        """Where it may run: the engine's choice by session, else the router's rank and no other.

        Source: an explicit rank wins over affinity in TensorRT-LLM, so only one of them is passed.
        """
        library = self._library
        session = request.origin.session_id if request.origin is not None else ""
        if (
            self._config.trtllm.conversation_affinity
            and session
            and "conversation_params" in library.generate_arguments
        ):
            return {"conversation_params": library.ConversationParams(conversation_id=session)}
        if self._info.num_ranks == 1 or request.dp_rank is None:
            return {}
        kind = library.SchedulingParams
        chosen = kind(attention_dp_rank=request.dp_rank, attention_dp_relax=False)
        return {"scheduling_params": chosen}

    def _retention(self, retention: Retention) -> Any:
        """Priorities of the prompt's ranges; durations are timedeltas there, despite their names."""
        kind = self._library.KvCacheRetentionConfig
        ranges = [
            kind.TokenRangeRetentionConfig(
                each.start, each.stop, each.priority, _duration(each.duration_s)
            )
            for each in retention.ranges
        ]
        return kind(ranges, retention.decode_priority, _duration(retention.decode_duration_s))

    def _max_tokens(self, request: GenerateRequest) -> int:
        return clip_max_tokens(request, self._info.max_seq_len)

    def _eos(self, request: GenerateRequest) -> frozenset[int]:
        return request.stops.eos_token_ids or self._info.eos_token_ids


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _adapters(directory: str) -> dict[str, tuple[int, str]]:
    """Name to number and path of the LoRA adapters in a directory."""
    if not directory:
        return {}
    paths = sorted(path for path in Path(directory).iterdir() if path.is_dir())
    return {path.name: (number, str(path)) for number, path in enumerate(paths, start=1)}
