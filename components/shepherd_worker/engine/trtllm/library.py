"""What the installed TensorRT-LLM has, found out by looking and not by its version.

The only file that imports tensorrt_llm.  Release candidates rename and move
things, so every name that not all supported versions have is looked up here,
once, and is None (or empty) where it is missing.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from shepherd_worker.errors import UnreachableError, UnusableInputError

log = logging.getLogger(__name__)

_NOT_INSTALLED = (
    "--engine trtllm needs TensorRT-LLM: pip install 'shepherd-worker[trtllm]' on a machine with "
    "an NVIDIA GPU (docs/tensorrt-llm.md), or use --engine torch"
)
_LEVELS = {"trace": "trace", "debug": "debug", "info": "info", "warn": "warning", "error": "error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """TensorRT-LLM's names; what an older or newer version lacks is None."""

    version: str
    LLM: Any
    """The class for the chosen backend."""
    llm_arguments: frozenset[str]
    """Every name that `LLM` takes; any other is an error there."""
    generate_arguments: frozenset[str]
    """Every name that `LLM.generate_async` takes."""
    SamplingParams: Any
    GuidedDecodingParams: Any
    DisaggregatedParams: Any
    KvCacheConfig: Any
    KvCacheRetentionConfig: Any
    RequestError: type[Exception]
    LoRARequest: Any
    SchedulingParams: Any
    ConversationParams: Any
    LogitsProcessor: Any
    Logprob: Any
    MetricsCollector: Any
    read_extra_options: Callable[..., dict[str, Any]]
    disagg_request_id: Callable[..., int] | None
    create_input_processor: Callable[..., Any]
    """Takes a model's directory and its tokenizer, gives what expands its prompts."""
    MultimodalEncoder: Any
    SharedTensorContainer: Any
    """Opens the tensors behind handles."""


def load_library(*, autodeploy: bool = False, built_engine: bool = False) -> Library:
    """Import TensorRT-LLM; in the main thread, since older versions install a signal handler.

    Raises:
        UnreachableError: it is not installed, or cannot be imported here.
        UnusableInputError: this version has no such backend.
    """
    set_log_level(os.environ)
    try:
        package = importlib.import_module("tensorrt_llm")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt_llm":
            raise UnreachableError(f"TensorRT-LLM lacks a package: {error}") from error
        raise UnreachableError(_NOT_INSTALLED) from error
    except Exception as error:  # CUDA, MPI and driver faults come as errors of all kinds
        raise UnreachableError(
            f"TensorRT-LLM cannot be imported: {error!r}; run `shepherd doctor`"
        ) from error
    version = str(getattr(package, "__version__", "unknown"))
    llm = _llm_class(version, autodeploy=autodeploy, built_engine=built_engine)
    api = importlib.import_module("tensorrt_llm.llmapi")
    return Library(
        version=version,
        LLM=llm,
        llm_arguments=_arguments_of(llm, autodeploy=autodeploy, built_engine=built_engine),
        generate_arguments=frozenset(inspect.signature(llm.generate_async).parameters),
        SamplingParams=api.SamplingParams,
        GuidedDecodingParams=_find("GuidedDecodingParams", api.__name__),
        DisaggregatedParams=api.DisaggregatedParams,
        KvCacheConfig=api.KvCacheConfig,
        KvCacheRetentionConfig=_find("KvCacheRetentionConfig", api.__name__),
        RequestError=_find("RequestError", "tensorrt_llm.executor.utils", api.__name__),
        LoRARequest=_find("LoRARequest", "tensorrt_llm.executor.request"),
        SchedulingParams=_find("SchedulingParams", "tensorrt_llm.scheduling_params"),
        ConversationParams=_find("ConversationParams", api.__name__),
        LogitsProcessor=_find("LogitsProcessor", "tensorrt_llm.sampling_params"),
        Logprob=_find("Logprob", "tensorrt_llm.executor.result"),
        MetricsCollector=_find("MetricsCollector", "tensorrt_llm.metrics"),
        read_extra_options=_find(
            "update_llm_args_with_extra_options", "tensorrt_llm.llmapi.llm_utils"
        ),
        disagg_request_id=_find("get_global_disagg_request_id", "tensorrt_llm.llmapi.disagg_utils"),
        create_input_processor=_find("create_input_processor", "tensorrt_llm.inputs"),
        MultimodalEncoder=_find("MultimodalEncoder", "tensorrt_llm"),
        SharedTensorContainer=_find("SharedTensorContainer", "tensorrt_llm._torch.shared_tensor"),
    )


def set_log_level(environ: MutableMapping[str, str]) -> None:
    """Let TensorRT-LLM log as much as Dynamo does, unless it was told otherwise.

    Source: its C++ side refuses unknown levels, and reads the variable at import.
    """
    if "TLLM_LOG_LEVEL" in environ or environ.get("DYN_SKIP_TRTLLM_LOG_FORMATTING"):
        return
    words = environ.get("DYN_LOG", "info").lower().split(",")
    level = next((word for word in words if "=" not in word), "info")
    environ["TLLM_LOG_LEVEL"] = _LEVELS.get(level, "info")


def fields_of(kind: Any) -> frozenset[str]:
    """The names that a pydantic model, dataclass or class takes."""
    for place in ("model_fields", "__dataclass_fields__"):
        if (found := getattr(kind, place, None)) is not None:
            return frozenset(found)
    return frozenset(inspect.signature(kind).parameters)


def known_only(wanted: Mapping[str, Any], known: Iterable[str], where: str) -> dict[str, Any]:
    """What of `wanted` this version knows; the rest is dropped, with a warning that names it."""
    names = frozenset(known)
    dropped = sorted(wanted.keys() - names)
    if dropped:
        log.warning("this TensorRT-LLM has no %s for %s: dropped", ", ".join(dropped), where)
    return {name: value for name, value in wanted.items() if name in names}


def _llm_class(version: str, *, autodeploy: bool, built_engine: bool) -> Any:
    if built_engine:
        found = _find("LLM", "tensorrt_llm._tensorrt_engine")
        if found is None:
            raise UnusableInputError(
                f"--model names built TensorRT engines, which TensorRT-LLM {version} cannot run: "
                "it has only the PyTorch backend (engines were removed in 1.3.0rc21); name the "
                "Hugging Face model that they were built from"
            )
        return found
    module = "tensorrt_llm._torch.auto_deploy" if autodeploy else "tensorrt_llm"
    found = _find("LLM", module)
    if found is None:
        raise UnusableInputError(f"--trtllm-backend: TensorRT-LLM {version} has no {module}.LLM")
    return found


def _arguments_of(llm: Any, *, autodeploy: bool, built_engine: bool) -> frozenset[str]:
    named = frozenset(inspect.signature(llm.__init__).parameters) - {"self", "kwargs"}
    if autodeploy:
        where = "tensorrt_llm._torch.auto_deploy"
        arguments = _find("LlmArgs", where, where + ".llm_args")
    elif built_engine:
        arguments = _find("TrtLlmArgs", "tensorrt_llm.llmapi.llm_args")
    else:
        arguments = _find("TorchLlmArgs", "tensorrt_llm.llmapi.llm_args")
    return named | (frozenset() if arguments is None else fields_of(arguments)) | {"backend"}


def _find(name: str, *modules: str) -> Any:
    """The first of `modules` that has `name` gives it."""
    for module in modules:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            continue
        if found is not None:
            return found
    return None
