"""What one device holds of a model and its cache, and what it is told to do with them.

The only shard of most engines, or one of several that do the same at the same
time.  Knows nothing of requests, sampling, or the other shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.causal_model import CausalModel, load_model
from shepherd_worker.engine.embedded.model.forward_pass import ForwardPass, GatheredPass
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache
from shepherd_worker.engine.embedded.model.memory import choose_num_blocks
from shepherd_worker.engine.embedded.model.vision import TorchVisionTower
from shepherd_worker.engine.embedded.parallel.tensor_parallel import Share
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import EngineFailedError


class Shard:
    """Ready after `load` and `make_cache`; for one thread, but for `read_blocks`."""

    def __init__(self, config: EngineConfig, share: Share | None = None) -> None:
        self._config = config
        self._share = share
        self.model: CausalModel
        self.cache: PagedKvCache
        self._pass: ForwardPass | None = None

    def load(self, directory: Path, device: torch.device) -> int:
        """Load the model; how many blocks there is memory for.

        Raises:
            UnusableInputError, EngineFailedError: as `load_model`, or there is no memory.
        """
        config = self._config
        self.model = load_model(directory, dtype=config.dtype, device=device, share=self._share)
        beside = self._share.size if self._share is not None and device.type == "cpu" else 1
        return choose_num_blocks(
            config,
            block_bytes=self.block_bytes * beside,
            max_seq_len=self.max_seq_len,
            device=device,
        )

    def make_cache(
        self, num_blocks: int, num_host_blocks: int, vision: TorchVisionTower | None = None
    ) -> None:
        """Have the cache and the way to compute with it.

        Raises:
            EngineFailedError: CUDA needs Triton, and it is not there.
        """
        model = self.model
        self.cache = PagedKvCache(
            model.geometry,
            num_blocks,
            self._config.block_size,
            dtype=model.precision.dtype,
            device=model.device,
            num_host_blocks=num_host_blocks,
        )
        if model.device.type == "cuda":
            self._pass = self._make_paged_pass(vision)
        else:
            self._pass = GatheredPass(model, self.cache, vision)

    @property
    def block_bytes(self) -> int:
        """Size of this shard's record of a block."""
        return self.model.geometry.block_bytes(self._config.block_size, self.model.precision.dtype)

    @property
    def max_seq_len(self) -> int:
        """Of the option and the model, the lesser."""
        return min(self._config.max_seq_len or self.model.max_seq_len, self.model.max_seq_len)

    @torch.inference_mode()
    def logits(self, segments: Sequence[Segment], new_block_ids: Sequence[int]) -> Tensor:
        """See `ForwardPass.logits`."""
        assert self._pass is not None
        return self._pass.logits(segments, new_block_ids)

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        """See `Runner.copy_blocks`."""
        self.cache.copy_blocks(copies)

    def read_blocks(self, block_ids: Sequence[int]) -> list[bytes]:
        """The shard's own records of blocks."""
        return self.cache.read_blocks(block_ids)

    def write_blocks(
        self, block_ids: Sequence[int], payloads: Sequence[bytes | memoryview]
    ) -> None:
        """Fill blocks with records that `read_blocks` of an equal shard gave."""
        self.cache.write_blocks(block_ids, payloads)

    def close(self) -> None:
        """See `ForwardPass.close`; a shard that was not made ready has nothing to let go of."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None

    def _make_paged_pass(self, vision: TorchVisionTower | None) -> ForwardPass:
        try:
            # Triton comes with PyTorch's CUDA builds only
            from shepherd_worker.engine.embedded.model.paged_pass import PagedPass  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise EngineFailedError(
                f"device=cuda needs the package {error.name}, which comes with PyTorch for CUDA"
            ) from error
        config, paged = self._config, PagedPass(self.model, self.cache, vision)
        paged.warm_up(fuse=config.torch_compile)
        largest = config.max_batch_size
        if config.cuda_graph_max_batch_size is not None:
            largest = min(largest, config.cuda_graph_max_batch_size)
        if largest and vision is None:
            paged.record_decodes(
                largest, min(self.cache.num_blocks, -(-self.max_seq_len // config.block_size))
            )
        return paged
