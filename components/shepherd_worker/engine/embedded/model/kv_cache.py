"""The KV of all blocks, in one tensor.

    storage  [num_blocks, num_layers, 2, block_size, num_kv_heads, head_dim]
    host     [num_host_blocks, ...], pinned beside a CUDA device

A block is one contiguous record, so exporting it is one copy.  A *page* is one
layer's keys or values of one block, a *row* those of one token.  The pages and
rows of a layer are shifted views of the same storage, so that one index, built
once per step, serves every layer, for keys and for values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shepherd_events.events import Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory

RECORD_LAYOUT = "record/1"
"""The order of a record's axes; goes up with it, for stored records outlive this code."""


@dataclass(frozen=True, slots=True)
class KvGeometry:
    """The shape of one token's KV."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def block_bytes(self, block_size: int, dtype: torch.dtype) -> int:
        """Size of one block's record."""
        return self.num_layers * 2 * block_size * self.num_kv_heads * self.head_dim * dtype.itemsize


class PagedKvCache:
    """See the module's docstring."""

    def __init__(
        self,
        geometry: KvGeometry,
        num_blocks: int,
        block_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        num_host_blocks: int = 0,
    ) -> None:
        self.geometry = geometry
        self.block_size = block_size
        self.device = device
        self.num_blocks = num_blocks
        self.pages_per_block = 2 * geometry.num_layers
        heads = (geometry.num_kv_heads, geometry.head_dim)
        record = (geometry.num_layers, 2, block_size, *heads)
        self._host = torch.empty(
            (num_host_blocks, *record), dtype=dtype, pin_memory=device.type == "cuda"
        )
        self.memory: SharedMemory | None = None
        """What the storage lies in on a CPU: other processes may be let in to read it."""
        if device.type == "cpu":
            num_bytes = num_blocks * geometry.block_bytes(block_size, dtype)
            self.memory = SharedMemory.allocate(num_bytes, "shepherd-kv")
            self._storage = torch.frombuffer(self.memory.memory, dtype=dtype).view(-1, *record)
        else:
            self._storage = torch.zeros((num_blocks, *record), dtype=dtype, device=device)
        self._pages = self._storage.view(-1, block_size, *heads)
        self._rows = self._storage.view(-1, *heads)
        self._gathered = self._storage.new_empty(2, 0)
        self.generation = 0
        """Changes whenever blocks are written from outside a forward pass."""

    @property
    def storage(self) -> Tensor:
        """The whole of it, for kernels that find their way by themselves."""
        return self._storage

    @property
    def rows_per_block(self) -> int:
        """Rows of all layers, keys and values."""
        return self.pages_per_block * self.block_size

    def layer_rows(self, layer: int) -> tuple[int, int]:
        """How far a layer's keys and its values lie behind the first layer's keys, in rows."""
        return 2 * layer * self.block_size, (2 * layer + 1) * self.block_size

    def row_index(self, block_ids: Tensor, positions: Tensor) -> Tensor:
        """Rows of tokens at `positions` [n] of their sequences, in blocks `block_ids` [n]."""
        size = self.block_size
        return block_ids * self.rows_per_block + positions % size

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values [n, num_kv_heads, head_dim] at `rows` [n]."""
        for part, source in enumerate((keys, values)):
            self._rows[(2 * layer + part) * self.block_size :].index_copy_(0, rows, source)

    def gather(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n * block_size, num_kv_heads, head_dim] of `pages` [n], in order.

        Lies in memory that the next `gather` overwrites: fresh large tensors cost page faults.
        """
        heads = (self.geometry.num_kv_heads, self.geometry.head_dim)
        count = len(pages) * self.block_size * heads[0] * heads[1]
        if self._gathered.shape[1] < count:
            self._gathered = self._storage.new_empty(2, count * 5 // 4)
        keys, values = (
            self.gather_into(self._gathered[part, :count].view(-1, *heads), 2 * layer + part, pages)
            for part in (0, 1)
        )
        return keys, values

    def gather_into(self, target: Tensor, first_page: int, pages: Tensor) -> Tensor:
        """Copy `pages` [n] to `target` [n * block_size, num_kv_heads, head_dim], which is returned.

        `first_page` is twice the layer for keys, one more for values.
        """
        out = target.view(len(pages), *self._pages.shape[1:])
        torch.index_select(self._pages[first_page:], 0, pages, out=out)
        return target

    def clear(self, block_ids: Tensor) -> None:
        """Forget what blocks hold, so that no stale infinity reaches a masked position."""
        self._storage.index_fill_(0, block_ids, 0)

    @torch.inference_mode()
    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        """Copy records between device and host, in order; on CUDA in the stream's order."""
        self.generation += 1
        for copy in copies:
            if copy.to is Tier.HOST:
                self._host[copy.target].copy_(self._storage[copy.source], non_blocking=True)
            else:
                self._storage[copy.target].copy_(self._host[copy.source], non_blocking=True)

    @torch.inference_mode()
    def read_blocks(self, block_ids: Sequence[int]) -> list[bytes]:
        """The records of blocks; from any thread, for blocks that nobody writes."""
        with self._own_stream():
            index = torch.tensor(block_ids, device=self.device)
            records = self._storage.index_select(0, index).view(len(block_ids), -1).cpu()
        return [record.view(torch.uint8).numpy().tobytes() for record in records]

    @torch.inference_mode()
    def write_blocks(
        self, block_ids: Sequence[int], payloads: Sequence[bytes | memoryview]
    ) -> None:
        """Fill blocks with records that `read_blocks` gave; on CUDA in the stream's order."""
        self.generation += 1
        if self.device.type == "cpu":
            _fill(self._storage, block_ids, payloads)
            return
        shape, pinned = self._storage.shape[1:], self.device.type == "cuda"
        staged = torch.empty((len(payloads), *shape), dtype=self._storage.dtype, pin_memory=pinned)
        _fill(staged, range(len(payloads)), payloads)
        index = torch.tensor(block_ids, device=self.device)
        self._storage.index_copy_(0, index, staged.to(self.device, non_blocking=True))

    def _own_stream(self) -> AbstractContextManager[object]:
        """Lets another thread copy without waiting for the engine's kernels."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]  # torch types it not


def _fill(target: Tensor, rows: Iterable[int], payloads: Sequence[bytes | memoryview]) -> None:
    """Copy records into rows of `target` [n, ...], without holding the interpreter's lock."""
    records = target.view(target.shape[0], -1).view(torch.uint8).numpy()
    for row, payload in zip(rows, payloads, strict=True):
        records[row] = np.frombuffer(payload, np.uint8)
