"""The `LLM` class: blocking to make, asynchronous to use."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from trtllm_backend.backend import Backend, engine_config
from trtllm_backend.images import InputProcessor, with_images
from trtllm_backend.requests import to_request
from trtllm_backend.variants import VARIANT, parameters

from shepherd_worker.engine.fake_vision import FakeVisionTower
from tensorrt_llm._torch.shared_tensor import SharedTensorContainer
from tensorrt_llm.disaggregated_params import DisaggregatedParams
from tensorrt_llm.executor.result import GenerationResult, IterationResult, RequestOutput
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs
from tensorrt_llm.sampling_params import SamplingParams


def _as_in_this_version(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method without the parameters that this version lacks."""
    known = {"self", *parameters(method.__name__)}
    signature = inspect.signature(method)
    kept = [p for name, p in signature.parameters.items() if name in known]
    narrowed = signature.replace(parameters=kept)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        narrowed.bind(*args, **kwargs)
        return method(*args, **kwargs)

    call.__signature__ = narrowed  # type: ignore[attr-defined]
    return call


class BaseLLM:
    """What all kinds of `LLM` share."""

    _args_class: Any = TorchLlmArgs

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("executor_cls", None)
        for name in kwargs:
            if name not in self._args_class.model_fields:
                raise ValueError(f"{type(self).__name__} got invalid argument: {name}")
        self.args = self._args_class(
            model=model,
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        self._ids = itertools.count(1)
        self._conversations: dict[str, int] = {}
        self._backend = self._make_backend()
        self._executor = SimpleNamespace(
            check_health=self._check_health, _fatal_error=None, _backend=self._backend
        )
        self._events = IterationResult(self._take_event)
        self._stats = IterationResult(self._take_row)

    def _make_backend(self) -> Backend:
        args = self._backend_args()
        kv = self.args.kv_cache_config
        drafts = self.args.speculative_config
        given = (
            {}
            if drafts is None
            else {
                "speculative": "ngram",
                "speculative_window": drafts.max_matching_ngram_size,
                "speculative_max_draft": drafts.max_draft_len,
            }
        )
        return Backend(
            engine_config(args, **given),
            num_ranks=self.args.tensor_parallel_size if self.args.enable_attention_dp else 1,
            event_buffer=kv.event_buffer_max_size if kv.enable_block_reuse else 0,
            stats=self.args.enable_iter_perf_stats,
        )

    def _backend_args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.args.__dict__
        return args

    @_as_in_this_version
    def generate_async(
        self,
        inputs: Any,
        sampling_params: Any = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        trace_headers: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        conversation_params: Any = None,
        cache_salt: str | None = None,
        priority: float = 0.5,
    ) -> GenerationResult:
        if self._backend._closed:
            raise RuntimeError("LLM is shutting down")
        if self.args.encode_only:
            raise RuntimeError("encode_only engines do not generate")
        if not 0 <= priority <= 1:
            raise ValueError(f"priority must be within [0, 1], got {priority}")
        params = SamplingParams() if sampling_params is None else sampling_params
        prompt, images = self._expand(inputs)
        kind = getattr(disaggregated_params, "request_type", None)
        self._check(prompt, params, kind, disaggregated_params)
        if kind == "context_only":
            params.max_tokens = 1
        shown = self._processor.own_tokens(prompt, images) if images else prompt
        result = RequestOutput(next(self._ids), shown, params, disaggregated_params)
        opaque = disaggregated_params.opaque_state if kind == "generation_only" else None
        request = to_request(
            result.request_id, prompt, params, lora_request, cache_salt or "",
            kv_cache_retention_config,
        )  # fmt: skip
        for results in (self._events, self._stats):
            results.mark_undone()
        result._abort = self._backend.submit(
            with_images(request, images, opaque),
            result.deliver,
            opaque_state=opaque,
            prefill_only=kind == "context_only",
            rank=self._rank(scheduling_params, conversation_params),
        )  # fmt: skip
        return result

    def _expand(self, inputs: Any) -> tuple[list[int], tuple[Any, ...]]:
        """Plain tokens, or a prompt with media."""
        if not isinstance(inputs, dict):
            return list(inputs), ()
        if not {"multi_modal_data", "multi_modal_embeddings"} & inputs.keys():
            return list(inputs["prompt_token_ids"]), ()
        token_ids, images = self._processor.expand(inputs)
        return token_ids.tolist(), images

    @functools.cached_property
    def _processor(self) -> InputProcessor:
        return InputProcessor(str(self.args.model), None)

    def _rank(self, scheduling: Any, conversation: Any) -> int | None:
        """An explicit rank wins over the one that a conversation began on."""
        if scheduling is not None and scheduling.attention_dp_rank is not None:
            rank: int = scheduling.attention_dp_rank
            if not 0 <= rank < self._backend.num_ranks:
                raise ValueError(f"attention_dp_rank {rank} is out of range")
            return rank
        config = self.args.attention_dp_config or {}
        if conversation is None or not config.get("kv_cache_routing_conversation_affinity"):
            return None
        turn = len(self._conversations) % self._backend.num_ranks
        return self._conversations.setdefault(conversation.conversation_id, turn)

    def _check(self, prompt: list[int], params: Any, kind: str | None, disagg: Any) -> None:
        limit = self.args.max_num_tokens
        chunked = self.args.enable_chunked_prefill or kind == "generation_only"
        if not chunked and len(prompt) > limit:
            raise RequestError(f"prompt length ({len(prompt)}) exceeds max_num_tokens ({limit})")
        if params.end_id is None:
            raise ValueError("end_id must be set without a tokenizer")
        if params.stop:
            raise RuntimeError("stop strings need a tokenizer")
        if kind in {"context_only", "generation_only"} and not self.args.cache_transceiver_config:
            raise RequestError("disaggregation needs a cache_transceiver_config")
        if params.guided_decoding is not None and not self.args.guided_decoding_backend:
            raise RequestError("guided decoding needs a guided_decoding_backend")
        if kind == "generation_only" and disagg.multimodal_embedding_handles:
            raise ValueError("generation_only must not carry multimodal_embedding_handles")
        params.pad_id = params.end_id if params.pad_id is None else params.pad_id

    def generate(
        self,
        inputs: Any,
        sampling_params: Any = None,
        use_tqdm: bool = True,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: Any = None,
    ) -> Any:
        del use_tqdm, prompt_adapter_request, scheduling_params
        return self.generate_async(
            inputs,
            sampling_params,
            lora_request=lora_request,
            kv_cache_retention_config=kv_cache_retention_config,
            disaggregated_params=disaggregated_params,
            cache_salt=cache_salt,
        ).result()

    def preprocess(
        self, inputs: Any, sampling_params: Any = None, disaggregated_params: Any = None
    ) -> Any:
        raise NotImplementedError

    def encode(self, inputs: Any) -> Any:
        raise NotImplementedError

    def get_stats(self, timeout: float | None = 2) -> list[dict[str, Any]]:
        return self._stats.drain(timeout)

    def get_stats_async(self, timeout: float | None = 2) -> IterationResult:
        return self._stats.within(timeout)

    def get_kv_cache_events(self, timeout: float | None = 2) -> list[dict[str, Any]]:
        self._assert_first_request()
        return self._events.drain(timeout)

    def get_kv_cache_events_async(self, timeout: float | None = 2) -> IterationResult:
        self._assert_first_request()
        return self._events.within(timeout)

    def _assert_first_request(self) -> None:
        if VARIANT.iterates_once:
            assert self._backend.num_requests, "KV Event IterationResult is not instantiated."

    def _take_event(self) -> dict[str, Any] | None:
        buffer = self._backend.event_buffer
        return buffer.popleft() if buffer else None

    def _take_row(self) -> dict[str, Any] | None:
        rows = self._backend.stats_rows
        return rows.popleft() if rows else None

    if VARIANT.snapshot != "1.2":

        def get_kv_cache_capacity(self) -> dict[str, int]:
            info = self._backend.info
            device = min(info.num_blocks.items())[1]
            size = info.block_size
            return {
                "maxNumBlocks": device,
                "tokensPerBlock": size,
                "maxNumTokens": device * size,
            }

    def shutdown(self) -> None:
        self._backend.shutdown()

    def _check_health(self) -> bool:
        return self._backend.is_healthy()

    def _collective_rpc(
        self, method: str, args: Any = (), kwargs: Any = None, non_block: bool = False
    ) -> Any:
        raise NotImplementedError

    @property
    def tokenizer(self) -> None:
        return None

    @property
    def llm_id(self) -> str:
        return "fake"

    @property
    def disaggregated_params(self) -> dict[str, Any]:
        return {}


class LLM(BaseLLM):
    """The PyTorch backend."""


class MultimodalEncoder(BaseLLM):
    """The vision half of a model: handles of embeddings for every image."""

    def __init__(
        self,
        model: Any,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        **kwargs: Any,
    ) -> None:
        if unknown := kwargs.keys() - {"max_batch_size", "model_kwargs"}:
            raise ValueError(f"MultimodalEncoder got invalid argument: {', '.join(unknown)}")
        del trust_remote_code, tensor_parallel_size, dtype
        self.args = SimpleNamespace(model=model)
        self._tower = FakeVisionTower(0)

    def generate(self, inputs: Any, use_tqdm: bool = True) -> Any:
        del use_tqdm
        return [self._encode(each) for each in inputs]

    def generate_async(self, inputs: Any, sampling_params: Any = None) -> Any:
        raise NotImplementedError

    def _encode(self, inputs: Any) -> Any:
        _, images = self._processor.expand(inputs)
        handles = []
        for placed in images:
            values = self._tower.encode(placed.image)
            numbers = torch.frombuffer(bytearray(values.data), dtype=torch.uint32)
            tensor = numbers.view(values.shape).expand(-1, self._processor.hidden_size)
            container = SharedTensorContainer.from_tensor(tensor.contiguous())
            handles.append(container.dump_to_dict())
        params = DisaggregatedParams(multimodal_embedding_handles=handles)
        return SimpleNamespace(disaggregated_params=params)

    def shutdown(self) -> None:
        pass


__all__ = ["LLM", "BaseLLM", "MultimodalEncoder", "SamplingParams"]
