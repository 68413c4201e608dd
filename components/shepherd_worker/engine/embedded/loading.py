"""Putting an engine's core together once its runner has loaded the model.

Runs in the engine's thread; what it finds out is read by the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from shepherd_events.block_hash import root_hash
from shepherd_events.events import Tier
from shepherd_worker.engine.connector.connector import KvConnector
from shepherd_worker.engine.embedded.cache.block_pool import BlockPool
from shepherd_worker.engine.embedded.cache.eviction import PolicyFactory, load_policy
from shepherd_worker.engine.embedded.core import EngineCore
from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.preparation import (
    Preparation,
    load_processors,
    make_compiler,
    prepare_with,
)
from shepherd_worker.engine.embedded.runner import Runner, RunnerInfo
from shepherd_worker.engine.embedded.scheduler import Scheduler
from shepherd_worker.engine.embedded.stop_strings import load_tokenizer
from shepherd_worker.engine.protocol import EngineConfig, EngineInfo
from shepherd_worker.engine.telemetry import EngineTelemetry
from shepherd_worker.engine.validation import RequestLimits
from shepherd_worker.errors import EngineFailedError, UnusableInputError


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that is ready to step."""

    core: EngineCore
    info: EngineInfo
    limits: RequestLimits
    preparation: Preparation
    block_bytes: int
    """Size of one block's record."""
    storage: SharedMemory | None
    """As in `RunnerInfo`."""


def load_engine(
    runner: Runner,
    config: EngineConfig,
    name: str,
    connector: KvConnector | None,
    telemetry: EngineTelemetry,
) -> Loaded:
    """Load the model and build everything of its size; open `connector` for it.

    Raises:
        UnusableInputError: a logits processor cannot be imported.
        StartError: as `Runner.load`, or the context would have no room for two tokens.
        UnusableInputError: `max_seq_len` is beyond the positions that the model knows, or
            there is no such `eviction_policy`.
    """
    policy = _load_policy(config.eviction_policy)
    factories = load_processors(config)
    model = runner.load()
    if config.max_seq_len is not None and config.max_seq_len > model.max_seq_len:
        raise UnusableInputError(
            f"max_seq_len={config.max_seq_len} is more than the model's context of "
            f"{model.max_seq_len} tokens"
        )
    capacity = model.num_blocks * config.block_size
    max_seq_len = min(config.max_seq_len or model.max_seq_len, model.max_seq_len, capacity)
    if max_seq_len < 2:
        raise EngineFailedError(
            f"{model.num_blocks} KV blocks of {config.block_size} tokens have no room for a request"
        )
    tokenizer = None if model.tokenizer_file is None else load_tokenizer(model.tokenizer_file)
    compiler = make_compiler(tokenizer, model.vocab_size, model.eos_token_ids)
    pool = BlockPool(
        model.num_blocks, config.block_size, num_host_blocks=model.num_host_blocks, policy=policy
    )
    scheduler = Scheduler(
        pool,
        max_batch_size=config.max_batch_size,
        max_num_tokens=config.max_num_tokens,
        max_waiting=config.max_waiting,
    )
    info = _engine_info(name, model, config, max_seq_len)
    if connector is not None:
        connector.open(model.fingerprint, model.block_bytes)
    limits = RequestLimits(
        vocab_size=model.vocab_size,
        max_seq_len=max_seq_len,
        matches_stop_strings=tokenizer is not None,
        serves_lora=model.serves_lora,
        vision=model.vision,
    )
    return Loaded(
        EngineCore(runner, pool, scheduler, tokenizer, saver=connector, telemetry=telemetry),
        info,
        limits,
        prepare_with(factories, config, model.tokenizer_file, compiler),
        model.block_bytes,
        model.storage,
    )


def _engine_info(
    name: str, model: RunnerInfo, config: EngineConfig, max_seq_len: int
) -> EngineInfo:
    return EngineInfo(
        engine=name,
        version=model.version,
        model_directory=model.model_directory,
        model_fingerprint=model.fingerprint,
        block_size=config.block_size,
        num_blocks=_num_blocks(model),
        max_seq_len=max_seq_len,
        max_batch_size=config.max_batch_size,
        max_num_tokens=config.max_num_tokens,
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        root_hash=root_hash(model.fingerprint),
    )


def _num_blocks(model: RunnerInfo) -> dict[Tier, int]:
    host = {Tier.HOST: model.num_host_blocks} if model.num_host_blocks else {}
    return {Tier.DEVICE: model.num_blocks, **host}


def _load_policy(name: str) -> PolicyFactory:
    try:
        return load_policy(name)
    except ValueError as error:
        raise UnusableInputError(f"eviction_policy: {error}") from error
