"""From options to the arguments of TensorRT-LLM's `LLM`.

    options -> --extra-engine-args (YAML) -> --override-engine-args (JSON) -> what we rely on

Each stage wins over the one before it.  The YAML file is read by TensorRT-LLM's
own function, which replaces whole top-level keys except the few that it merges;
the JSON object is merged deeply.  A name that the installed version does not
have never reaches `LLM`: it is dropped, and the log names it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.trtllm.library import Library, fields_of, known_only
from shepherd_worker.errors import UnusableInputError

log = logging.getLogger(__name__)

EVENT_BUFFER_SIZE = 100_000
"""Cache events that TensorRT-LLM keeps for us; the oldest are lost beyond it."""
_NOT_FOR_AUTODEPLOY = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "moe_expert_parallel_size",
    "enable_attention_dp",
    "scheduler_config",
    "build_config",
)
_CONNECTORS = {
    "lmcache": "lmcache.integration.tensorrt_llm.tensorrt_adapter:LMCacheKvConnectorScheduler:"
    "LMCacheKvConnectorWorker",
    "kvbm": "kvbm.trtllm_integration.connector:DynamoKVBMConnectorLeader:DynamoKVBMConnectorWorker",
}
"""Presets of newer versions, spelled out so that older ones take them."""


def engine_arguments(config: EngineConfig, library: Library) -> dict[str, Any]:
    """What `library.LLM` is called with.

    Raises:
        UnusableInputError: the file of arguments cannot be read.
    """
    merged = _with_file(_from_options(config, library), config.trtllm.extra_engine_args, library)
    merged = deep_merge(merged, config.trtllm.overrides())
    merged["kv_cache_config"] = _kv_cache_config(merged["kv_cache_config"], library)
    if config.trtllm.trtllm_backend == "autodeploy":
        merged.setdefault("world_size", config.tensor_parallel_size)
        merged = {name: value for name, value in merged.items() if name not in _NOT_FOR_AUTODEPLOY}
    return known_only(merged, library.llm_arguments, "LLM")


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over`; where both have a mapping (or `base` a model) the two are merged."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(value, Mapping) and below is not None:
            below = _plain(below)
            merged[name] = deep_merge(below, value) if isinstance(below, Mapping) else dict(value)
        else:
            merged[name] = value
    return merged


def _from_options(config: EngineConfig, library: Library) -> dict[str, Any]:
    """The arguments that options set; what stays at TensorRT-LLM's default is left out."""
    options = config.trtllm
    arguments: dict[str, Any] = {
        "model": config.model,
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "max_batch_size": config.max_batch_size,
        "max_num_tokens": config.max_num_tokens,
        "return_perf_metrics": True,
        "enable_iter_perf_stats": True,
        "enable_chunked_prefill": options.enable_chunked_prefill,
        "kv_cache_config": _kv_cache_options(config),
    }
    unless_default = {
        "tokenizer": config.tokenizer or None,
        "pipeline_parallel_size": options.pipeline_parallel_size if _many(options) else None,
        "moe_expert_parallel_size": options.expert_parallel_size,
        "enable_attention_dp": options.enable_attention_dp or None,
        "gpus_per_node": options.gpus_per_node,
        "max_seq_len": config.max_seq_len,
        "max_beam_width": options.max_beam_width if options.max_beam_width > 1 else None,
        "trust_remote_code": options.trust_remote_code or None,
        "load_format": None if options.load_format == "auto" else options.load_format,
        "guided_decoding_backend": _unless_none(options.guided_decoding_backend),
        "attention_dp_config": _affinity(config, library),
        "cache_transceiver_config": _transceiver(config),
        "speculative_config": _speculation(config),
        "kv_connector_config": _connector(config.kv_connector),
        "lora_config": _lora(options.lora_directory),
    }
    arguments |= {name: value for name, value in unless_default.items() if value is not None}
    if "telemetry_config" in library.llm_arguments:
        arguments["telemetry_config"] = {"disabled": True}
    return arguments


def _kv_cache_options(config: EngineConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "enable_block_reuse": True,
        "tokens_per_block": config.block_size,
        "free_gpu_memory_fraction": config.kv_cache_free_gpu_mem_fraction,
    }
    if config.num_kv_blocks is not None:
        settings["max_tokens"] = config.num_kv_blocks * config.block_size
    if config.host_cache_size:
        settings["host_cache_size"] = config.host_cache_size
    if config.kv_connector == "kvbm":
        settings["enable_partial_reuse"] = False
    return settings


def _kv_cache_config(settings: Any, library: Library) -> Any:
    """The cache's settings as an object, with room for the events that we live on."""
    plain = dict(_plain(settings))
    plain["event_buffer_max_size"] = plain.get("event_buffer_max_size") or EVENT_BUFFER_SIZE
    kind = library.KvCacheConfig
    return kind(**known_only(plain, fields_of(kind), "kv_cache_config"))


def _with_file(arguments: dict[str, Any], path: str, library: Library) -> dict[str, Any]:
    if not path:
        return arguments
    if not Path(path).is_file():
        raise UnusableInputError(f"--extra-engine-args: there is no file {path!r}")
    kind = library.KvCacheConfig
    settings = known_only(arguments["kv_cache_config"], fields_of(kind), "kv_cache_config")
    try:
        return library.read_extra_options(arguments | {"kv_cache_config": kind(**settings)}, path)
    except Exception as error:
        raise UnusableInputError(f"--extra-engine-args {path}: {error}") from error


def _many(options: Any) -> bool:
    return bool(options.pipeline_parallel_size > 1)


def _unless_none(word: str) -> str | None:
    return None if word == "none" else word


def _affinity(config: EngineConfig, library: Library) -> dict[str, bool] | None:
    if not config.trtllm.conversation_affinity:
        return None
    if library.ConversationParams is None:
        log.warning("this TensorRT-LLM has no conversation affinity: dropped")
        return None
    return {"kv_cache_routing_conversation_affinity": True}


def _transceiver(config: EngineConfig) -> dict[str, Any] | None:
    """Without it TensorRT-LLM refuses the phases of disaggregation."""
    if not config.disaggregated:
        return None
    chosen = config.trtllm.cache_transceiver
    return {
        "backend": "DEFAULT" if chosen == "auto" else chosen.upper(),
        "kv_transfer_timeout_ms": max(1, int(config.transfer_lease_s * 1000)),
    }


def _speculation(config: EngineConfig) -> dict[str, Any] | None:
    if config.speculative == "none":
        return None
    return {
        "decoding_type": "NGram",
        "max_draft_len": config.speculative_max_draft,
        "max_matching_ngram_size": config.speculative_window,
    }


def _connector(name: str) -> dict[str, str] | None:
    """A preset, or MODULE:SCHEDULER:WORKER."""
    if not name:
        return None
    if name == "lmcache-mp":
        return {"connector": name}
    parts = _CONNECTORS.get(name, name).split(":")
    if len(parts) != 3:
        raise UnusableInputError(
            f"--kv-connector {name!r}: with TensorRT-LLM expected {', '.join(_CONNECTORS)}, "
            "lmcache-mp or MODULE:SCHEDULER_CLASS:WORKER_CLASS"
        )
    fields = ("connector_module", "connector_scheduler_class", "connector_worker_class")
    return dict(zip(fields, parts, strict=True))


def _lora(directory: str) -> dict[str, Any] | None:
    if not directory:
        return None
    adapters = sorted(str(path) for path in Path(directory).iterdir() if path.is_dir())
    return {"lora_dir": adapters}


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(exclude_none=True, exclude_unset=True)
