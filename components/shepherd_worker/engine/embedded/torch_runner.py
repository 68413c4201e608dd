"""A `Runner` that computes with torch and a transformers model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as ReadOnlyList
from pathlib import Path

import torch
import transformers

from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.layout import lay_out
from shepherd_worker.engine.embedded.model.causal_model import choose_device
from shepherd_worker.engine.embedded.model.kv_cache import RECORD_LAYOUT
from shepherd_worker.engine.embedded.model.memory import choose_num_host_blocks
from shepherd_worker.engine.embedded.model.vision import (
    TorchVisionTower,
    load_vision,
    reads_images,
)
from shepherd_worker.engine.embedded.parallel.followers import Followers, join_group
from shepherd_worker.engine.embedded.parallel.shard import Shard
from shepherd_worker.engine.embedded.parallel.tensor_parallel import Share, check_parallel
from shepherd_worker.engine.embedded.runner import RunnerInfo, Samples
from shepherd_worker.engine.embedded.sampling.sampler import sample
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.embedded.weights import find_model, find_weights, fingerprint
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import ImageCounts, ImageProcessor

log = logging.getLogger(__name__)


class TorchRunner:
    """See the module's docstring.

    With `tensor_parallel_size` above 1 it has the first share of the model, and
    followers with the others.  A block's record is then the shares' records, one
    behind the other.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._shard: Shard
        self._vision: TorchVisionTower | None = None
        self._followers: Followers | None = None
        self._died: Callable[[BaseException], None] = _unheard

    def watch(self, died: Callable[[BaseException], None]) -> None:
        """See `Runner.watch`."""
        self._died = died

    def load(self) -> RunnerInfo:
        """See `Runner.load`."""
        config = self._config
        device = choose_device(config.device)
        directory = find_model(config.model)
        weights = find_weights(directory)
        shard, affordable = self._load_shard(directory, device)
        model, size = shard.model, config.tensor_parallel_size
        if reads_images(model.module.config):
            self._vision = load_vision(
                model.module, model.precision, directory, weights, config.embedding_cache_bytes
            )
        block_bytes = shard.block_bytes * size
        num_host_blocks = choose_num_host_blocks(config, block_bytes=block_bytes)
        if self._followers is not None:
            affordable = min(affordable, self._followers.affordable_blocks())
            self._followers.make_caches(affordable, num_host_blocks)
        shard.make_cache(affordable, num_host_blocks, self._vision)
        if self._followers is not None:
            self._followers.ready()
        layout = (
            f"{RECORD_LAYOUT} {model.precision} {model.geometry} block_size={config.block_size}"
        )
        return RunnerInfo(
            version=f"transformers {transformers.__version__}, torch {torch.__version__}",
            model_directory=str(directory),
            fingerprint=fingerprint(
                directory, weights, layout if size == 1 else f"{layout} x{size}"
            ),
            vocab_size=model.vocab_size,
            max_seq_len=model.max_seq_len,
            eos_token_ids=model.eos_token_ids,
            num_blocks=affordable,
            num_host_blocks=num_host_blocks,
            block_bytes=block_bytes,
            storage=shard.cache.memory if size == 1 else None,
            tokenizer_file=_tokenizer_file(config.tokenizer, directory),
            serves_lora=False,
            vision=None if self._vision is None else self._vision.limits,
        )

    def image_processor(self) -> ImageProcessor | None:
        """See `Runner.image_processor`."""
        return None if self._vision is None else self._vision.processor

    def image_counts(self) -> ImageCounts:
        """See `Runner.image_counts`."""
        return ImageCounts() if self._vision is None else self._vision.image_counts()

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> list[Samples]:
        """See `Runner.forward`."""
        segments = lay_out(plan.work)
        if self._followers is not None:
            self._followers.step(segments, plan.new_block_ids)
        return sample(self._shard.logits(segments, plan.new_block_ids), plan.work)

    def copy_blocks(self, copies: ReadOnlyList[BlockCopy]) -> None:
        """See `Runner.copy_blocks`."""
        if self._followers is not None:
            self._followers.copy_blocks(copies)
        self._shard.copy_blocks(copies)

    def read_blocks(self, block_ids: ReadOnlyList[int]) -> list[bytes]:
        """See `Runner.read_blocks`."""
        own = self._shard.read_blocks(block_ids)
        if self._followers is None:
            return own
        shares = [own, *self._followers.read_blocks(block_ids)]
        return [b"".join(pieces) for pieces in zip(*shares, strict=True)]

    def write_blocks(
        self, block_ids: ReadOnlyList[int], payloads: ReadOnlyList[bytes | memoryview]
    ) -> None:
        """See `Runner.write_blocks`."""
        size = self._shard.block_bytes
        views = [memoryview(payload).cast("B") for payload in payloads]
        if self._followers is not None:
            ranks = range(1, self._config.tensor_parallel_size)
            shares = [[view[rank * size : (rank + 1) * size] for view in views] for rank in ranks]
            self._followers.write_blocks(block_ids, shares)
        self._shard.write_blocks(block_ids, [view[:size] for view in views])

    def close(self) -> None:
        """See `Runner.close`."""
        if self._followers is not None:
            self._shard.close()  # its graphs hold the group
            self._followers.close()
            self._followers = None

    def _load_shard(self, directory: Path, device: torch.device) -> tuple[Shard, int]:
        config, size = self._config, self._config.tensor_parallel_size
        if size == 1:
            self._shard = Shard(config)
            return self._shard, self._shard.load(directory, device)
        check_parallel(config, directory, device)
        if device.type == "cuda":
            device = torch.device("cuda", 0)
        self._shard = Shard(config, Share(0, size))
        self._followers = Followers(self._died)
        self._followers.start(config, directory, device.type)
        join_group(self._followers.rendezvous, 0, size, device)
        return self._shard, self._shard.load(directory, device)


def _unheard(error: BaseException) -> None:
    log.critical("the engine cannot go on", exc_info=error)


def _tokenizer_file(option: str, directory: Path) -> Path | None:
    """`tokenizer.json` of the tokenizer that was named, else of the model, if it has one."""
    file = (find_model(option) if option else directory) / "tokenizer.json"
    return file if file.is_file() else None
