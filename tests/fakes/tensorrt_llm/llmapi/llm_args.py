"""What `LLM` can be built from; every name that is not here is an error."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pydantic
from trtllm_backend.schema import model_of

KvCacheConfig = model_of("KvCacheConfig", __name__)
SchedulerConfig = model_of("SchedulerConfig", __name__)
DynamicBatchConfig = model_of("DynamicBatchConfig", __name__)
CacheTransceiverConfig = model_of("CacheTransceiverConfig", __name__)
KvCacheConnectorConfig = model_of("KvCacheConnectorConfig", __name__)
_NGram = model_of("NGramDecodingConfig", __name__)


class CapacitySchedulerPolicy(StrEnum):
    """How the scheduler fills the cache."""

    MAX_UTILIZATION = "MAX_UTILIZATION"
    GUARANTEED_NO_EVICT = "GUARANTEED_NO_EVICT"
    STATIC_BATCH = "STATIC_BATCH"


class LoadFormat(StrEnum):
    """Where weights come from."""

    AUTO = "AUTO"
    DUMMY = "DUMMY"


class NGramDecodingConfig(_NGram):  # type: ignore[misc, valid-type]
    """Guesses from the text so far."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Any:
        if not self.max_draft_len:
            raise ValueError("max_draft_len must be set to a value greater than 0")
        return self


_NESTED = {
    "kv_cache_config": KvCacheConfig,
    "scheduler_config": SchedulerConfig,
    "cache_transceiver_config": CacheTransceiverConfig,
    "kv_connector_config": KvCacheConnectorConfig,
}
_Args = model_of("LLM", __name__, "init_kwargs")


class BaseLlmArgs(_Args):  # type: ignore[misc, valid-type]
    """The validated arguments."""

    @pydantic.model_validator(mode="after")
    def _nested(self) -> Any:
        for name, kind in _NESTED.items():
            if isinstance(value := getattr(self, name, None), dict):
                setattr(self, name, kind(**value))
        spec = self.speculative_config
        if isinstance(spec, dict) and spec.get("decoding_type") == "NGram":
            self.speculative_config = NGramDecodingConfig(**spec)
        self.kv_cache_config = self.kv_cache_config or KvCacheConfig()
        if self.backend not in {None, "pytorch", "_autodeploy"}:
            raise ValueError(f"backend={self.backend!r} is not supported")
        self._check_connector()
        return self

    def _check_connector(self) -> None:
        connector = self.kv_connector_config
        if connector is None:
            return
        named = getattr(connector, "connector", None)
        if not named and not connector.connector_module:
            raise ValueError("connector_module is required")
        scheduler = self.scheduler_config
        policy = getattr(scheduler, "capacity_scheduler_policy", "GUARANTEED_NO_EVICT")
        if policy != "GUARANTEED_NO_EVICT":
            raise NotImplementedError("KV connector is only supported with guaranteed no evict")


class TorchLlmArgs(BaseLlmArgs):
    """The PyTorch backend's."""


_TORCH_ONLY = {
    "enable_iter_perf_stats",
    "enable_iter_req_stats",
    "kv_connector_config",
    "attention_dp_config",
    "cuda_graph_config",
    "disable_overlap_scheduler",
    "stream_interval",
    "enable_autotuner",
    "encode_only",
    "mm_encoder_only",
}


class TrtLlmArgs(BaseLlmArgs):
    """The TensorRT backend's, which lacks what only PyTorch has; removed with it."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _reject(cls, given: dict[str, Any]) -> dict[str, Any]:
        if foreign := _TORCH_ONLY & given.keys():
            raise ValueError(f"the TensorRT backend has no {', '.join(sorted(foreign))}")
        return given


TrtLlmArgs.model_fields = {  # type: ignore[misc]
    name: field for name, field in BaseLlmArgs.model_fields.items() if name not in _TORCH_ONLY
}


def update_llm_args_with_extra_dict(
    llm_args: dict[str, Any],
    llm_args_dict: dict[str, Any],
    extra_llm_api_options: str | None = None,
    explicit_cli_keys: Any = None,
) -> dict[str, Any]:
    """The file's keys win; three of them are merged one level deep."""
    del extra_llm_api_options, explicit_cli_keys
    merged = dict(llm_args_dict)
    for key in ("kv_cache_config", "telemetry_config", "multimodal_config"):
        base = llm_args.get(key)
        if key in merged and base:
            plain = base if isinstance(base, dict) else base.model_dump(exclude_unset=True)
            merged[key] = plain | merged[key]
    if isinstance(merged.get("kv_cache_config"), dict):
        merged["kv_cache_config"] = KvCacheConfig(**merged["kv_cache_config"])
    return llm_args | merged


TOKENIZER_ALIASES: dict[str, str] = {}
