"""A `Runner` that computes with torch and a transformers model."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList
from pathlib import Path

import torch
import transformers

from shepherd_worker.engine.embedded.block_pool import BlockCopy
from shepherd_worker.engine.embedded.forward_pass import ForwardPass, GatheredPass
from shepherd_worker.engine.embedded.kv_cache import RECORD_LAYOUT, PagedKvCache
from shepherd_worker.engine.embedded.layout import lay_out
from shepherd_worker.engine.embedded.memory import choose_num_blocks, choose_num_host_blocks
from shepherd_worker.engine.embedded.model import CausalModel, choose_device, load_model
from shepherd_worker.engine.embedded.runner import RunnerInfo, Samples
from shepherd_worker.engine.embedded.sampler import sample
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.embedded.vision import (
    TorchVisionTower,
    load_vision,
    reads_images,
)
from shepherd_worker.engine.embedded.weights import find_model, find_weights, fingerprint
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import ImageCounts, ImageProcessor
from shepherd_worker.errors import EngineFailedError


class TorchRunner:
    """See the module's docstring."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._model: CausalModel
        self._vision: TorchVisionTower | None = None
        self._cache: PagedKvCache
        self._pass: ForwardPass

    def load(self) -> RunnerInfo:
        """See `Runner.load`."""
        config = self._config
        device = choose_device(config.device)
        directory = find_model(config.model)
        weights = find_weights(directory)
        self._model = model = load_model(directory, dtype=config.dtype, device=device)
        if reads_images(model.module.config):
            self._vision = load_vision(
                model.module, model.precision, directory, weights, config.embedding_cache_bytes
            )
        block_bytes = model.geometry.block_bytes(config.block_size, model.precision.dtype)
        max_seq_len = min(config.max_seq_len or model.max_seq_len, model.max_seq_len)
        num_blocks = choose_num_blocks(
            config, block_bytes=block_bytes, max_seq_len=max_seq_len, device=device
        )
        num_host_blocks = choose_num_host_blocks(config, block_bytes=block_bytes)
        self._cache = PagedKvCache(
            model.geometry,
            num_blocks,
            config.block_size,
            dtype=model.precision.dtype,
            device=device,
            num_host_blocks=num_host_blocks,
        )
        self._pass = make_pass(model, self._cache, self._vision, config)
        layout = (
            f"{RECORD_LAYOUT} {model.precision} {model.geometry} block_size={config.block_size}"
        )
        return RunnerInfo(
            version=f"transformers {transformers.__version__}, torch {torch.__version__}",
            model_directory=str(directory),
            fingerprint=fingerprint(directory, weights, layout),
            vocab_size=model.vocab_size,
            max_seq_len=model.max_seq_len,
            eos_token_ids=model.eos_token_ids,
            num_blocks=num_blocks,
            num_host_blocks=num_host_blocks,
            block_bytes=block_bytes,
            storage=self._cache.memory,
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
        logits = self._pass.logits(lay_out(plan.work), plan.new_block_ids)
        return sample(logits, plan.work)

    def copy_blocks(self, copies: ReadOnlyList[BlockCopy]) -> None:
        """See `Runner.copy_blocks`."""
        self._cache.copy_blocks(copies)

    def read_blocks(self, block_ids: ReadOnlyList[int]) -> list[bytes]:
        """See `Runner.read_blocks`."""
        return self._cache.read_blocks(block_ids)

    def write_blocks(
        self, block_ids: ReadOnlyList[int], payloads: ReadOnlyList[bytes | memoryview]
    ) -> None:
        """See `Runner.write_blocks`."""
        self._cache.write_blocks(block_ids, payloads)


def make_pass(
    model: CausalModel, cache: PagedKvCache, vision: TorchVisionTower | None, config: EngineConfig
) -> ForwardPass:
    """The way to compute on the model's device.

    Raises:
        EngineFailedError: CUDA needs Triton, and it is not there.
    """
    if cache.device.type != "cuda":
        return GatheredPass(model, cache, vision)
    try:
        # Triton comes with PyTorch's CUDA builds only
        from shepherd_worker.engine.embedded.paged_pass import (  # noqa: PLC0415
            PagedPass,
            compile_layers,
        )
    except ModuleNotFoundError as error:
        raise EngineFailedError(
            f"device=cuda needs the package {error.name}, which comes with PyTorch for CUDA"
        ) from error
    if config.torch_compile:
        compile_layers(model.module)
    paged = PagedPass(model, cache, vision)
    if config.cuda_graph_max_batch_size != 0 and vision is None:
        paged.record_decodes(
            min(config.cuda_graph_max_batch_size or config.max_batch_size, config.max_batch_size),
            _blocks_per_sequence(model, cache, config),
        )
    return paged


def _blocks_per_sequence(model: CausalModel, cache: PagedKvCache, config: EngineConfig) -> int:
    """Of the longest sequence that may run."""
    max_seq_len = min(config.max_seq_len or model.max_seq_len, model.max_seq_len)
    return min(cache.num_blocks, -(-max_seq_len // cache.block_size))


def _tokenizer_file(option: str, directory: Path) -> Path | None:
    """`tokenizer.json` of the tokenizer that was named, else of the model, if it has one."""
    file = (find_model(option) if option else directory) / "tokenizer.json"
    return file if file.is_file() else None
