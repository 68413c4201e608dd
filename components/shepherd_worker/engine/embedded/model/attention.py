"""Attention over the paged cache, called by an unmodified transformers model.

The model hands each layer's queries, keys and values of one packed batch to
`attend`; `PackedBatch` knows whose rows they are.  A batch is `[decodes | chunks]`:

    decodes   one token each; attend in groups, padded to the longest of the group
    chunks    several tokens of one sequence; attend one sequence at a time

Registers no mask function, so the model builds no mask of its own.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from shepherd_worker.engine.embedded.model.decode_mirror import DecodeMirror, Extent
from shepherd_worker.engine.embedded.model.kv_cache import PagedKvCache

ATTENTION_NAME = "shepherd_paged"


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer's share of a packed batch of T tokens."""

    layer: int
    query: Tensor
    """[T, num_heads, head_dim]"""
    key: Tensor
    """[T, num_kv_heads, head_dim]"""
    value: Tensor
    """[T, num_kv_heads, head_dim]"""
    scale: float | None
    window: int | None
    """Tokens that a token sees at most, itself included."""
    other: frozenset[str]
    """Arguments of the model that this attention does not know."""


class Attends(Protocol):
    """What a model's forward is given as `paged`."""

    def attend(self, call: LayerCall) -> Tensor:
        """The attention's output, [T, num_heads, head_dim]."""
        ...


def _paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged: Attends,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_unused: object,
) -> tuple[Tensor, None]:
    """Source: `transformers.integrations.sdpa_attention`, whose signature this is; states [1, heads, T, dim]."""
    others = {
        "attention_mask": attention_mask,
        "softcap": softcap,
        "s_aux": s_aux,
        "position_bias": position_bias,
    }
    call = LayerCall(
        layer=int(module.layer_idx),  # type: ignore[arg-type] # a plain int attribute in every model
        query=query[0].transpose(0, 1),
        key=key[0].transpose(0, 1),
        value=value[0].transpose(0, 1),
        scale=scaling,
        window=sliding_window,
        other=frozenset(name for name, given in others.items() if given is not None),
    )
    return paged.attend(call)[None], None


AttentionInterface.register(ATTENTION_NAME, _paged_attention)


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """One sequence's rows [start, stop) of a packed batch."""

    start: int
    stop: int
    num_past: int
    """Tokens of the sequence before them."""
    pages: Tensor
    """The sequence's pages up to the chunk's end."""

    @property
    def num_seen(self) -> int:
        """Tokens that the chunk's last token sees."""
        return self.num_past + self.stop - self.start


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """The rows [start, start + n) of a packed batch, one sequence each."""

    start: int
    num_seen: Tensor
    """[n], tokens that each sees, itself included."""
    longest: int
    shortest: int
    pages: Tensor | None
    """[n * width / block_size], each sequence's pages, padded with its first; None to add to the mirror."""
    extent: Extent | None
    """Where the mirror has the group; None to gather it."""
    newest: Tensor | None
    """[n], the rows of the extent for the tokens' own keys and values; None unless they are added."""

    def __len__(self) -> int:
        return len(self.num_seen)


class PackedBatch:
    """One step's attention; its masks are made once and shared by all layers."""

    def __init__(
        self,
        cache: PagedKvCache,
        mirror: DecodeMirror,
        rows: Tensor,
        decodes: ReadOnlyList[DecodeRows],
        chunks: ReadOnlyList[ChunkRows],
    ) -> None:
        """`rows` [T] is where the tokens' own keys and values go."""
        self._cache = cache
        self._mirror = mirror
        self._rows = rows
        self.decodes = decodes
        """In the order of their rows."""
        self._chunks = chunks
        self._decode_masks: dict[tuple[int, int | None], Tensor] = {}
        self._chunk_masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(self, call: LayerCall) -> Tensor:
        """See `Attends.attend`."""
        self._cache.write(call.layer, self._rows, call.key, call.value)
        output = torch.empty(call.query.shape, dtype=call.query.dtype, device=call.query.device)
        for group in self.decodes:
            output[group.start : group.start + len(group)] = self._attend_decodes(call, group)
        for index, chunk in enumerate(self._chunks):
            output[chunk.start : chunk.stop] = self._attend_chunk(call, index, chunk)
        return output

    def _attend_decodes(self, call: LayerCall, decodes: DecodeRows) -> Tensor:
        """The query heads of one KV head become query rows: keys are read once per group."""
        count, (num_heads, head_dim) = len(decodes), call.query.shape[1:]
        num_kv_heads = call.key.shape[1]
        query = call.query[decodes.start : decodes.start + count]
        query = query.reshape(count, num_kv_heads, num_heads // num_kv_heads, head_dim)
        keys, values = (
            states[:, : decodes.longest].transpose(1, 2)
            for states in self._decode_states(call, decodes)
        )
        mask = self._decode_mask(decodes, keys.shape[2], call.window)
        attended = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=call.scale
        )
        return attended.reshape(count, num_heads, head_dim)

    def _decode_states(self, call: LayerCall, decodes: DecodeRows) -> tuple[Tensor, Tensor]:
        """Keys and values that the decodes see, [n, at least the longest, num_kv_heads, head_dim]."""
        if decodes.extent is None:
            assert decodes.pages is not None
            keys, values = self._cache.gather(call.layer, decodes.pages)
            shape = (len(decodes), -1, *keys.shape[1:])
            return keys.view(shape), values.view(shape)
        if decodes.newest is None:
            assert decodes.pages is not None
            return self._mirror.fill(call.layer, decodes.extent, decodes.pages)
        rows = slice(decodes.start, decodes.start + len(decodes))
        return self._mirror.add(
            call.layer, decodes.extent, decodes.newest, call.key[rows], call.value[rows]
        )

    def _attend_chunk(self, call: LayerCall, index: int, chunk: ChunkRows) -> Tensor:
        if chunk.num_past:
            keys, values = self._cache.gather(call.layer, chunk.pages)
            keys, values = keys[: chunk.num_seen], values[: chunk.num_seen]
        else:
            keys, values = call.key[chunk.start : chunk.stop], call.value[chunk.start : chunk.stop]
        mask = self._chunk_mask(index, chunk, call.window)
        query = call.query[chunk.start : chunk.stop]
        attended = scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=call.scale,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return attended[0].transpose(0, 1)

    def _decode_mask(self, decodes: DecodeRows, width: int, window: int | None) -> Tensor | None:
        """Which of `width` positions each decode sees, [n, 1, 1, width]; None for all of them."""
        if window is not None and window >= decodes.longest:
            window = None
        if window is None and decodes.shortest == width:
            return None
        if (decodes.start, window) not in self._decode_masks:
            positions = torch.arange(width, device=self._rows.device)
            seen = positions < decodes.num_seen[:, None]
            if window is not None:
                seen &= positions >= decodes.num_seen[:, None] - window
            self._decode_masks[decodes.start, window] = seen[:, None, None]
        return self._decode_masks[decodes.start, window]

    def _chunk_mask(self, index: int, chunk: ChunkRows, window: int | None) -> Tensor | None:
        """Which positions each token sees, [n, num_seen]; None where plain causality says it."""
        if window is not None and window >= chunk.num_seen:
            window = None
        if window is None and not chunk.num_past:
            return None
        if (index, window) not in self._chunk_masks:
            positions = torch.arange(chunk.num_seen, device=self._rows.device)
            own = positions[chunk.num_past :, None]
            seen = positions <= own
            if window is not None:
                seen &= positions > own - window
            self._chunk_masks[index, window] = seen
        return self._chunk_masks[index, window]
