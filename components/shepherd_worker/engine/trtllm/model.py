"""What is known of a model before TensorRT-LLM loads it: files, sizes, identity.

TensorRT-LLM is told the model as the user named it; this is for ourselves: the
limits of requests, the tokenizer for stop strings, and the fingerprint that
roots our block hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from shepherd_events.block_hash import root_hash
from shepherd_events.events import Tier
from shepherd_worker.engine.embedded.weights import find_model, find_weights, fingerprint
from shepherd_worker.engine.protocol import EngineConfig, EngineInfo
from shepherd_worker.errors import UnusableInputError
from shepherd_worker.image import VisionLimits

_ENGINE_FILE = "rank0.engine"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's directory, read without loading it."""

    directory: Path
    """Where its tokenizer and configuration are."""
    fingerprint: bytes
    vocab_size: int
    max_seq_len: int
    """Positions that the model knows."""
    eos_token_ids: frozenset[int]
    tokenizer_file: Path | None
    vision: VisionLimits | None = None
    """None: the model reads text only."""


def holds_engines(model: str) -> bool:
    """Whether a directory holds TensorRT engines that were built ahead."""
    return (Path(model).expanduser() / _ENGINE_FILE).is_file()


def read_model(config: EngineConfig) -> ModelFiles:
    """Read what a model's directory says of it; downloads a hub id that is not there.

    Raises:
        StartError: there is no such model, or its files are not whole.
    """
    if holds_engines(config.model):
        return _read_engines(config)
    directory = find_model(config.model)
    settings = _read_json(directory / "config.json")
    text = {**settings, **settings.get("text_config", {})}
    layout = f"trtllm/{config.dtype}/{config.block_size}"
    return ModelFiles(
        directory=directory,
        fingerprint=fingerprint(directory, find_weights(directory), layout),
        vocab_size=int(text["vocab_size"]),
        max_seq_len=int(text.get("max_position_embeddings", 2**20)),
        eos_token_ids=_eos(directory, text),
        tokenizer_file=_tokenizer(config, directory),
        vision=_vision(config, directory, settings, text),
    )


def _vision(
    config: EngineConfig, directory: Path, settings: Mapping[str, Any], text: Mapping[str, Any]
) -> VisionLimits | None:
    """A model that reads images names the token that stands for one."""
    token_id = settings.get("image_token_id", settings.get("image_token_index"))
    if token_id is None:
        return None
    identity = fingerprint(directory, find_weights(directory), f"trtllm/embeddings/{config.dtype}")
    return VisionLimits(int(token_id), int(text.get("hidden_size", 0)), identity)


def engine_info(
    name: str, llm: Any, version: str, model: ModelFiles, config: EngineConfig
) -> EngineInfo:
    """What a loaded engine is; sizes as they came out of files and overrides, where it says them."""
    args, kv = llm.args, llm.args.kv_cache_config
    num_ranks = int(args.tensor_parallel_size) if args.enable_attention_dp else 1
    capacity = _capacity(llm)
    block_size = int(capacity.get("tokensPerBlock") or kv.tokens_per_block)
    device = int(capacity.get("maxNumBlocks") or _configured_blocks(kv))
    return EngineInfo(
        engine=name,
        version=version,
        model_directory=str(model.directory),
        model_fingerprint=model.fingerprint,
        block_size=block_size,
        num_blocks={Tier.DEVICE: device * num_ranks},
        max_seq_len=int(args.max_seq_len or model.max_seq_len),
        max_batch_size=int(args.max_batch_size or config.max_batch_size),
        max_num_tokens=int(args.max_num_tokens or config.max_num_tokens),
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        root_hash=root_hash(model.fingerprint),
        num_ranks=num_ranks,
    )


def _capacity(llm: Any) -> dict[str, int]:
    """The device pool of a rank, where this version tells it."""
    ask = getattr(llm, "get_kv_cache_capacity", None)
    told: dict[str, int] | None = None if ask is None else ask()
    return told or {}


def _configured_blocks(kv: Any) -> int:
    return int(kv.max_tokens or 0) // int(kv.tokens_per_block)


def _read_engines(config: EngineConfig) -> ModelFiles:
    """Engines say their sizes in a configuration of their own; the tokenizer is elsewhere."""
    directory = Path(config.model).expanduser()
    settings = _read_json(directory / "config.json")
    pretrained = settings.get("pretrained_config", {})
    if not config.tokenizer:
        raise UnusableInputError(
            f"--model {config.model} holds built engines and no tokenizer: name the Hugging Face "
            "directory with --tokenizer"
        )
    identity = json.dumps(pretrained, sort_keys=True).encode()
    size = (directory / _ENGINE_FILE).stat().st_size
    digest = blake2b(identity + str(size).encode(), digest_size=32, person=b"shepherd.trteng1")
    build = settings.get("build_config", {})
    tokenizer_directory = find_model(config.tokenizer)
    return ModelFiles(
        directory=tokenizer_directory,
        fingerprint=digest.digest(),
        vocab_size=int(pretrained.get("vocab_size", 2**31)),
        max_seq_len=int(build.get("max_seq_len") or pretrained.get("max_position_embeddings")),
        eos_token_ids=_eos(tokenizer_directory, {}),
        tokenizer_file=_tokenizer(config, tokenizer_directory),
    )


def _tokenizer(config: EngineConfig, directory: Path) -> Path | None:
    named = find_model(config.tokenizer) if config.tokenizer else directory
    file = named / "tokenizer.json"
    return file if file.is_file() else None


def _eos(directory: Path, settings: Mapping[str, Any]) -> frozenset[int]:
    """Generation defaults go before the model's own configuration."""
    file = directory / "generation_config.json"
    generation = _read_json(file) if file.is_file() else {}
    told = generation.get("eos_token_id", settings.get("eos_token_id"))
    if told is None:
        return frozenset()
    return frozenset(told if isinstance(told, list) else [told])


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UnusableInputError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UnusableInputError(f"{file} is not a JSON object")
    return content
