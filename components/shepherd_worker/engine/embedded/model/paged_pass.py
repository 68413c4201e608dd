"""A `ForwardPass` for CUDA: attention over the cache in place, graphs for decodes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.attention import ATTENTION_NAME
from shepherd_worker.engine.embedded.model.causal_model import CausalModel
from shepherd_worker.engine.embedded.model.decode_graphs import DecodeGraphs
from shepherd_worker.engine.embedded.model.forward_pass import place_images
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache
from shepherd_worker.engine.embedded.model.paged_attention import (
    PagedBatch,
    PagedInputs,
    choose_tile_tokens,
)
from shepherd_worker.engine.embedded.model.paged_layout import (
    PagedLayout,
    PageGeometry,
    lay_out_step,
)
from shepherd_worker.engine.embedded.model.vision import TorchVisionTower

WARM_UP_TOKENS = 67
"""No size of a model, for which the compiler would think that the two always go together."""


class PagedPass:
    """See the module's docstring."""

    def __init__(
        self, model: CausalModel, cache: PagedKvCache, vision: TorchVisionTower | None = None
    ) -> None:
        self._model = model
        self._cache = cache
        self._vision = vision
        self._graphs: DecodeGraphs | None = None
        self._geometry = PageGeometry(
            cache.block_size, cache.rows_per_block, choose_tile_tokens(model.group_size)
        )

    @torch.inference_mode()
    def warm_up(self, *, fuse: bool) -> None:
        """Compile what steps need, so that none waits for it; writes to the first block.

        `fuse` lets `torch.compile` fuse the layers; what is compiled first serves any
        number of tokens.
        """
        if fuse:
            compile_layers(self._model.module)
        num_blocks = -(-WARM_UP_TOKENS // self._cache.block_size)
        tokens = array("I", bytes(4 * WARM_UP_TOKENS))
        self.logits([Segment(tokens, 0, [0] * num_blocks, 1)], ())

    def record_decodes(self, max_batch_size: int, blocks_per_sequence: int) -> None:
        """Record graphs for steps of up to `max_batch_size` decodes."""
        self._graphs = DecodeGraphs(
            self._compute,
            self._geometry,
            max_batch_size=max_batch_size,
            blocks_per_sequence=blocks_per_sequence,
            device=self._cache.device,
        )
        with torch.inference_mode():
            self._graphs.record()

    def close(self) -> None:
        """See `ForwardPass.close`."""
        if self._graphs is not None:
            self._graphs.close()

    def logits(self, segments: Sequence[Segment], new_block_ids: Sequence[int]) -> Tensor:
        """See `ForwardPass.logits`; what a block holds beyond its tokens is never read."""
        del new_block_ids
        recorded = self._graphs.logits(segments) if self._graphs else None
        if recorded is not None:
            return recorded
        layout = lay_out_step(segments, self._geometry)
        numbers = torch.frombuffer(layout.numbers, dtype=torch.int32).to(self._cache.device)
        return self._compute(PagedInputs.view(numbers, layout), layout, segments)

    def _compute(
        self, inputs: PagedInputs, layout: PagedLayout, segments: Sequence[Segment] = ()
    ) -> Tensor:
        token_ids = inputs.token_ids.long()
        positions, embeddings = place_images(
            self._vision, segments, layout.stops, token_ids, inputs.positions.long()
        )
        rows = slice(None) if layout.num_logits is None else inputs.logit_rows.long()
        batch = PagedBatch(self._cache, inputs, layout.num_decodes)
        return self._model.logits(token_ids, positions, rows, batch, embeddings)


def compile_layers(module: Any) -> None:
    """Let `torch.compile` fuse what each layer does around its attention.

    All layers share what is compiled for the first of their kind.  Attention stays
    as it is: its kernels are compiled already, and its inputs change at each step.
    """
    apart = torch.compiler.disable(AttentionInterface()[ATTENTION_NAME])  # type: ignore[no-untyped-call]
    AttentionInterface.register(ATTENTION_NAME, apart)
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(dynamic=True, options={"coordinate_descent_tuning": True})
