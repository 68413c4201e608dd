"""CUDA graphs of the step that matters most: one token for every running sequence.

A graph is a recorded forward pass that the device repeats without the host
launching anything.  It has a fixed batch size and fixed memory, so one is
recorded for each bucket, over one set of input numbers; a smaller batch is
padded with decodes that see nothing and write nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.paged_attention import PagedInputs
from shepherd_worker.engine.embedded.model.paged_layout import (
    NUMBERS_PER_DECODE,
    PagedLayout,
    PageGeometry,
    bucket_for,
    bucket_sizes,
    lay_out_padded,
)

log = logging.getLogger(__name__)

Compute = Callable[[PagedInputs, PagedLayout], Tensor]
"""One forward pass over inputs of a layout; logits of the rows that want them."""


class DecodeGraphs:
    """Recorded once, replayed for ever; the numbers are its own, the logits those of the last replay."""

    def __init__(
        self,
        compute: Compute,
        geometry: PageGeometry,
        *,
        max_batch_size: int,
        blocks_per_sequence: int,
        device: torch.device,
    ) -> None:
        """`blocks_per_sequence` is the longest block table that a sequence may have."""
        self._compute = compute
        self._geometry = geometry
        size = max_batch_size * (NUMBERS_PER_DECODE + blocks_per_sequence)
        self._numbers = torch.zeros(size, dtype=torch.int32, device=device)
        self._staging = torch.zeros(size, dtype=torch.int32, pin_memory=True)
        self._buckets = bucket_sizes(max_batch_size)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def record(self) -> None:
        """Record every bucket, the largest first, so that the others fit into its memory."""
        began, pool = time.monotonic(), torch.cuda.graph_pool_handle()
        for bucket in reversed(self._buckets):
            self._graphs[bucket] = self._record(bucket, pool)
        log.info(
            "recorded %d decode graphs of up to %d sequences in %.1f s",
            len(self._graphs),
            self._buckets[-1],
            time.monotonic() - began,
        )

    def logits(self, segments: Sequence[Segment]) -> Tensor | None:
        """Logits of a step of decodes; None for a step that no graph was recorded for."""
        bucket = bucket_for(len(segments), self._buckets)
        if bucket is None or not all(segment.is_decode for segment in segments):
            return None
        self._put(lay_out_padded(segments, self._geometry, bucket))
        graph, logits = self._graphs[bucket]
        graph.replay()
        return logits[: len(segments)]

    def close(self) -> None:
        """Forget the graphs; what they hold, a process group among it, can be let go of then."""
        for graph, _ in self._graphs.values():
            graph.reset()
        self._graphs.clear()

    def _record(self, bucket: int, pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        layout = lay_out_padded((), self._geometry, bucket)
        self._put(layout)
        inputs = PagedInputs.view(self._numbers, layout)
        apart = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        apart.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(apart):
            self._compute(inputs, layout)  # compiles what has to be compiled, outside of the record
        torch.cuda.current_stream().wait_stream(apart)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = self._compute(inputs, layout)
        return graph, logits

    def _put(self, layout: PagedLayout) -> None:
        """The step before has been sampled, so that its copy out of the staging numbers is over."""
        count = len(layout.numbers)
        self._staging[:count] = torch.frombuffer(layout.numbers, dtype=torch.int32)
        self._numbers[:count].copy_(self._staging[:count], non_blocking=True)
