"""From segments to logits: what a runner does with a step on its device.

There is one way for each kind of device: `GatheredPass` here gathers what
attention reads, which any device can do; `paged_pass.PagedPass` reads the cache
where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.causal_model import CausalModel
from shepherd_worker.engine.embedded.model.decode_mirror import DecodeMirror
from shepherd_worker.engine.embedded.model.image_rows import image_rows, rotary_positions
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache
from shepherd_worker.engine.embedded.model.packing import pack
from shepherd_worker.engine.embedded.model.vision import TorchVisionTower


class ForwardPass(Protocol):
    """A model and a cache, ready to compute; called in inference mode from one thread."""

    def logits(self, segments: Sequence[Segment], new_block_ids: Sequence[int]) -> Tensor:
        """Write the segments' KV; logits [sum of num_logits, vocab_size], segment by segment.

        `new_block_ids` are blocks that hold what someone else left there.  What is
        returned is valid until the next call.
        """
        ...

    def close(self) -> None:
        """Let go of what the device keeps beside tensors; nothing is computed after it."""
        ...


class GatheredPass:
    """A `ForwardPass` whose attention copies the KV that it reads, and keeps decodes' copies."""

    def __init__(
        self, model: CausalModel, cache: PagedKvCache, vision: TorchVisionTower | None = None
    ) -> None:
        self._model = model
        self._cache = cache
        self._vision = vision
        self._mirror = DecodeMirror(cache)

    def close(self) -> None:
        """See `ForwardPass.close`; there is nothing beside tensors."""

    def logits(self, segments: Sequence[Segment], new_block_ids: Sequence[int]) -> Tensor:
        """See `ForwardPass.logits`."""
        if new_block_ids:
            self._cache.clear(torch.tensor(new_block_ids, device=self._cache.device))
        packed = pack(segments, self._cache, self._mirror, new_block_ids)
        positions, embeddings = place_images(
            self._vision, segments, packed.stops, packed.token_ids, packed.positions
        )
        return self._model.logits(
            packed.token_ids, positions, packed.logit_rows, packed.attention, embeddings
        )


def place_images(
    vision: TorchVisionTower | None,
    segments: Sequence[Segment],
    stops: Sequence[int],
    token_ids: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Positions and embeddings where some segment's sequence has images, else the positions alone.

    `stops` are the rows after the last of each segment.
    """
    if vision is None or not any(segment.images for segment in segments):
        return positions, None
    return (
        rotary_positions(segments, stops, positions),
        vision.embed(token_ids, image_rows(segments, stops)),
    )
