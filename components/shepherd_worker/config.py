"""The worker's options.

Spellings of Dynamo's and TensorRT-LLM's own workers are accepted as aliases, so
that an existing launch line keeps working.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from shepherd_config import OptionError, Resolved, load, option
from shepherd_config.addresses import is_loopback, is_wildcard
from shepherd_telemetry.options import TelemetryOptions
from shepherd_worker.dynamo_options import DynamoOptions
from shepherd_worker.engine.embedded.cache.eviction import load_policy
from shepherd_worker.engine.embedded.transfer.handshake import read_secret
from shepherd_worker.engine.embedded.transfer.nixl import NIXL_IS_MISSING, is_nixl_installed
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.errors import UnreachableError, UnusableInputError
from shepherd_worker.media.options import MediaOptions
from shepherd_worker.stream_options import StreamOptions

DEFAULT_COMPONENTS = {
    "aggregated": "backend",
    "prefill": "prefill",
    "decode": "backend",
    "encode": "encode",
}
"""Prefill and encode have components of their own: Dynamo would mix the roles within one."""
_SIZES = {"torch": (16, 32, 512), "fake": (16, 32, 512), "trtllm": (32, 256, 8192)}
"""Tokens per block, sequences at once and tokens per pass, where the options say nothing."""
_APART = "--role prefill, decode or encode"


class Role(StrEnum):
    """What part of a request this worker does."""

    AGGREGATED = "aggregated"
    PREFILL = "prefill"
    DECODE = "decode"
    ENCODE = "encode"
    """Turns images into embeddings for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig(DynamoOptions, StreamOptions, MediaOptions, TrtllmOptions, TelemetryOptions):
    """Everything that can be said to a worker; see `--help`."""

    model: str = option(
        "Model directory in Hugging Face layout, or hub id.",
        aliases=("--model-path", "--engine-dir"),
        group="model",
    )
    served_model_name: str = option(
        "Name that clients ask for; empty takes --model.", default="", group="model"
    )
    tokenizer: str = option(
        "Tokenizer directory, when it is not with the model.", default="", group="model"
    )
    engine: Literal["auto", "torch", "trtllm", "fake"] = option(
        "What runs the model; auto is trtllm where TensorRT-LLM is installed, and torch elsewhere.",
        default="auto",
        group="model",
    )
    role: Role = option(
        "Part of a request that this worker does.",
        default=Role.AGGREGATED,
        aliases=("--disagg-mode", "--disaggregation-mode"),
        synonyms={"agg": "aggregated", "pd": "aggregated", "prefill_and_decode": "aggregated"},
        group="model",
    )

    block_size: int | None = option(
        "Tokens per KV block; none takes 16, with TensorRT-LLM 32.",
        default=None,
        minimum=1,
        maximum=1024,
        aliases=("--kv-block-size",),
        group="engine",
        unit="tokens",
    )
    num_kv_blocks: int | None = option(
        "Device blocks of the KV cache; none derives them from free memory.",
        default=None,
        minimum=2,
        group="engine",
        unit="blocks",
    )
    host_cache_size: int = option(
        "Bytes of host memory for KV blocks that leave the device and come back on a hit; 0 has none.",
        default=0,
        minimum=0,
        group="engine",
        unit="bytes",
    )
    eviction_policy: str = option(
        "What orders the blocks that may be forgotten: lru, or MODULE:FACTORY of your own.",
        default="lru",
        group="engine",
        only="--engine torch",
    )
    system_prompt_retention_s: float | None = option(
        "Seconds that an unused system prompt is kept before all else; none is for ever.",
        default=600.0,
        minimum=1,
        group="engine",
    )
    kv_cache_free_gpu_mem_fraction: float = option(
        "Share of the memory left after loading that the KV cache takes.",
        default=0.9,
        minimum=0.01,
        maximum=1.0,
        aliases=("--free-gpu-memory-fraction",),
        group="engine",
        unit="share",
    )
    max_batch_size: int | None = option(
        "Sequences that run at once; none takes 32, with TensorRT-LLM 256.",
        default=None,
        minimum=1,
        group="engine",
        unit="sequences",
    )
    max_num_tokens: int | None = option(
        "Tokens that one forward pass computes at most; none takes 512, with TensorRT-LLM 8192.",
        default=None,
        minimum=1,
        group="engine",
        unit="tokens",
    )
    max_seq_len: int | None = option(
        "Tokens of prompt and output together; none takes the model's.",
        default=None,
        minimum=2,
        group="engine",
        unit="tokens",
    )
    max_waiting: int = option(
        "Requests that may wait for a place.",
        default=1024,
        minimum=1,
        group="engine",
        unit="requests",
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "Where the model runs.",
        default="auto",
        group="engine",
        only="--engine torch",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = option(
        "Type of weights and KV; auto takes float32 on a CPU, else what the weights have; int8 rounds the weights and keeps KV in float32, on a CPU only.",
        default="auto",
        group="engine",
    )
    speculative: Literal["none", "ngram"] = option(
        "Guess the next tokens from the text so far and verify them in one pass.",
        default="none",
        synonyms={"NGram": "ngram"},
        group="engine",
    )
    speculative_window: int = option(
        "Tokens of an answer's end that are looked up in the text before it, at most.",
        default=4,
        minimum=1,
        maximum=64,
        aliases=("--max-matching-ngram-size",),
        group="engine",
        unit="tokens",
    )
    speculative_max_draft: int = option(
        "Tokens that are guessed at once, at most.",
        default=8,
        minimum=1,
        maximum=64,
        aliases=("--max-draft-len",),
        group="engine",
        unit="tokens",
    )
    multimodal_embedding_cache_capacity_gb: float = option(
        "Gibibytes of image embeddings that are kept to be used again.",
        default=0.25,
        minimum=0,
        group="engine",
        unit="GiB",
    )
    cuda_graph_max_batch_size: int | None = option(
        "Decodes that CUDA replays as one graph at most; none takes --max-batch-size, 0 has no graphs.",
        default=None,
        minimum=0,
        group="engine",
        unit="sequences",
        only="--engine torch",
    )
    tensor_parallel_size: int = option(
        "Devices of this machine that share one model.",
        default=1,
        minimum=1,
        maximum=64,
        aliases=("--tp-size",),
        group="engine",
        unit="devices",
    )
    torch_compile: bool = option(
        "Fuse the layers' small operations on CUDA; the start takes longer.",
        default=False,
        group="engine",
        only="--engine torch",
    )
    kv_connector: str = option(
        "Store that keeps KV blocks beyond this process, as NAME:LOCATION: disk:PATH, memory:, or one of yours; empty has none.",
        default="",
        group="engine",
    )
    kv_connector_size: int = option(
        "Bytes that the KV store may take; the least recently used blocks leave it.",
        default=16 << 30,
        minimum=1,
        group="engine",
        unit="bytes",
        only="--engine torch",
    )
    kv_connector_buffer: int = option(
        "Bytes of host memory for loaded blocks, and as much again for those to be saved.",
        default=1 << 30,
        minimum=1,
        group="engine",
        unit="bytes",
        only="--engine torch",
    )
    kv_connector_timeout_s: float = option(
        "Seconds that a request waits for each of the KV store's answers before it is computed instead.",
        default=5.0,
        minimum=0.01,
        group="engine",
        only="--engine torch",
    )
    logits_processor: tuple[str, ...] = option(
        "Logits processors that requests may name: NAME=module:factory, or an entry point's NAME.",
        default=(),
        group="engine",
    )
    logits_processor_timeout_s: float = option(
        "Seconds that a request's logits processors may take for one token.",
        default=1.0,
        minimum=0.001,
        group="engine",
        only="--engine torch",
    )
    test_logits_processor: bool = option(
        'Answer "Hello world!" to everything, by Dynamo\'s example of a logits processor.',
        default=False,
        env=("DYN_ENABLE_TEST_LOGITS_PROCESSOR",),
        group="engine",
    )
    kv_transfer: Literal["auto", "shm", "tcp", "nixl"] = option(
        "How KV travels from prefill to decode workers; auto takes the best way that both have.",
        default="auto",
        group="engine",
        only=f"--engine torch and {_APART}",
    )
    transfer_host: str = option(
        "Address from which decode workers fetch KV; beyond loopback with --transfer-secret-file only.",
        default="127.0.0.1",
        group="engine",
        only=f"--engine torch and {_APART}",
    )
    transfer_secret_file: str = option(
        "File of mode 600 with the secret that prefill and decode workers prove to each other.",
        default="",
        group="engine",
        only=f"--engine torch and {_APART}",
    )
    transfer_lease_s: float = option(
        "Seconds that a prefilled prompt waits to be fetched.",
        default=60.0,
        minimum=0.1,
        group="engine",
        only=_APART,
    )

    @property
    def model_name(self) -> str:
        """What clients ask for."""
        return self.served_model_name or self.model

    @property
    def chosen_engine(self) -> Literal["torch", "trtllm", "fake"]:
        """The engine that is meant; TensorRT-LLM encodes no images for other workers."""
        if self.engine != "auto":
            return self.engine
        installed = importlib.util.find_spec("tensorrt_llm") is not None
        return "trtllm" if installed and self.role is not Role.ENCODE else "torch"

    @property
    def endpoint_path(self) -> tuple[str, str, str]:
        """Namespace, component and endpoint under which requests arrive."""
        parts = self.endpoint.removeprefix("dyn://").split(".")
        if len(parts) == 3:
            return parts[0], parts[1], parts[2]
        return self.namespace, self.component or DEFAULT_COMPONENTS[self.role], self.endpoint

    def engine_config(self) -> EngineConfig:
        """The part that the engine is built from."""
        block_size, max_batch_size, max_num_tokens = _SIZES[self.chosen_engine]
        return EngineConfig(
            model=self.model,
            tokenizer=self.tokenizer,
            block_size=self.block_size or block_size,
            num_kv_blocks=self.num_kv_blocks,
            host_cache_size=self.host_cache_size,
            eviction_policy=self.eviction_policy,
            kv_cache_free_gpu_mem_fraction=self.kv_cache_free_gpu_mem_fraction,
            max_batch_size=self.max_batch_size or max_batch_size,
            max_num_tokens=self.max_num_tokens or max_num_tokens,
            max_seq_len=self.max_seq_len,
            max_waiting=self.max_waiting,
            device=self.device,
            dtype=self.dtype,
            speculative=self.speculative,
            speculative_window=self.speculative_window,
            speculative_max_draft=self.speculative_max_draft,
            multimodal_embedding_cache_capacity_gb=self.multimodal_embedding_cache_capacity_gb,
            cuda_graph_max_batch_size=self.cuda_graph_max_batch_size,
            tensor_parallel_size=self.tensor_parallel_size,
            torch_compile=self.torch_compile,
            kv_connector=self.kv_connector,
            kv_connector_size=self.kv_connector_size,
            kv_connector_buffer=self.kv_connector_buffer,
            kv_connector_timeout_s=self.kv_connector_timeout_s,
            logits_processors=self.logits_processor,
            logits_processor_timeout_s=self.logits_processor_timeout_s,
            test_logits_processor=self.test_logits_processor,
            kv_transfer=self.kv_transfer,
            transfer_host=self.transfer_host,
            transfer_secret_file=self.transfer_secret_file,
            transfer_lease_s=self.transfer_lease_s,
            disaggregated=self.role is not Role.AGGREGATED,
            trtllm=self.trtllm_options(),
        )


def load_config(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Resolved[WorkerConfig]:
    """Resolve and cross-check the options, before any model is loaded.

    Raises:
        OptionError: a wrong flag, variable or key; exit code 2.
        UnusableInputError: a directory or file that is named is not there; exit code 3.
        UnreachableError: NIXL is asked for and not installed; exit code 4.
    """
    resolved = load(
        WorkerConfig,
        prog="python -m shepherd_worker",
        section="worker",
        description="Serve one model in one role on NVIDIA Dynamo's distributed runtime.",
        argv=argv,
        environ=environ,
    )
    config = resolved.config
    if len(config.endpoint.removeprefix("dyn://").split(".")) not in {1, 3}:
        raise OptionError("--endpoint", config.endpoint, "a name or NAMESPACE.COMPONENT.ENDPOINT")
    config.check_parsers()
    config.check_stream()
    _check_policy(config.eviction_policy)
    config.check_media()
    _check_paths(config)
    _check_transfer(config)
    config.check_telemetry()
    config.check_trtllm()
    return resolved


def _check_policy(name: str) -> None:
    try:
        load_policy(name)
    except ValueError as error:
        raise OptionError(
            "--eviction-policy", name, "lru or MODULE:FACTORY", f"; {error}"
        ) from error


def _check_paths(config: WorkerConfig) -> None:
    for flag, value in (("--model", config.model), ("--tokenizer", config.tokenizer)):
        looks_local = value.startswith(("/", ".", "~")) or value.count("/") > 1
        if looks_local and not Path(value).expanduser().is_dir():
            raise UnusableInputError(
                f"{flag}: there is no directory {value!r}; name a model directory or a hub id"
            )


def _check_transfer(config: WorkerConfig) -> None:
    host = config.transfer_host
    if config.transfer_secret_file:
        read_secret(Path(config.transfer_secret_file).expanduser())
    if config.kv_transfer == "nixl" and not is_nixl_installed():
        raise UnreachableError(NIXL_IS_MISSING)
    if config.kv_transfer == "shm":
        return
    if is_wildcard(host):
        raise OptionError("--transfer-host", host, "an address that decode workers can fetch from")
    if not is_loopback(host) and not config.transfer_secret_file:
        raise OptionError(
            "--transfer-host",
            host,
            "a loopback address, or --transfer-secret-file: whoever reaches it needs a credential",
        )
