"""Decodes attend in groups of about one length, each to its own tokens."""

from __future__ import annotations

from array import array
from random import Random

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.attention import LayerCall
from shepherd_worker.engine.embedded.model.decode_mirror import DecodeMirror
from shepherd_worker.engine.embedded.model.kv_cache import KvGeometry, PagedKvCache
from shepherd_worker.engine.embedded.model.packing import pack

HEADS, KV_HEADS, DIM, SIZE = 8, 4, 64, 16
GROUP_BLOCKS = (8 << 20) // (2 * SIZE * KV_HEADS * DIM * 4)


def cache_of(num_blocks: int) -> PagedKvCache:
    return PagedKvCache(
        KvGeometry(1, KV_HEADS, DIM),
        num_blocks,
        SIZE,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def decodes(lengths: list[int]) -> tuple[list[Segment], int]:
    """Sequences that see so many tokens, in blocks that lie in disorder; how many blocks."""
    counts = [-(-length // SIZE) for length in lengths]
    blocks = list(range(sum(counts)))
    Random(0).shuffle(blocks)
    segments = []
    for length, count in zip(lengths, counts, strict=True):
        table, blocks = blocks[:count], blocks[count:]
        segments.append(
            Segment(
                token_ids=array("I", [1]),
                start=length - 1,
                block_ids=table,
                num_logits=1,
                images=(),
            )
        )
    return segments, sum(counts)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([5], [1]),
        ([16] * 40, [40]),
        ([SIZE * GROUP_BLOCKS, *[16] * 31], [31, 1]),
        ([SIZE * GROUP_BLOCKS * 2, SIZE * GROUP_BLOCKS * 3], [1, 1]),
        ([SIZE * GROUP_BLOCKS // 2] * 5, [2, 2, 1]),
    ],
)
def test_a_long_sequence_does_not_widen_short_ones(lengths: list[int], groups: list[int]) -> None:
    segments, num_blocks = decodes(lengths)
    cache = cache_of(num_blocks)
    packed = pack(segments, cache, DecodeMirror(cache))

    assert [len(group) for group in packed.attention.decodes] == groups
    assert [group.start for group in packed.attention.decodes] == [
        sum(groups[:i]) for i in range(len(groups))
    ]


def test_each_decode_sees_its_own_tokens_whatever_its_group() -> None:
    lengths = [2000, 3, 17, 1999, 64, 900, 1, 16, 1500, 901]
    segments, num_blocks = decodes(lengths)
    cache, generator = cache_of(num_blocks), torch.Generator().manual_seed(0)
    cache.storage.normal_(generator=generator)
    packed = pack(segments, cache, DecodeMirror(cache))
    rows = [stop - 1 for stop in packed.stops]
    states = torch.randn(3, len(lengths), HEADS, DIM, generator=generator)
    query, key, value = states[0], states[1, :, :KV_HEADS], states[2, :, :KV_HEADS]
    output = packed.attention.attend(LayerCall(0, query, key, value, None, None, frozenset()))

    assert len(packed.attention.decodes) > 1
    for segment, row in zip(segments, rows, strict=True):
        stored = cache.storage[list(segment.block_ids), 0].transpose(0, 1).flatten(1, 2)
        keys, values = stored[:, : segment.num_seen]
        assert torch.equal(keys[-1], key[row])
        expected = scaled_dot_product_attention(
            query[row, None].transpose(0, 1)[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            enable_gqa=True,
        )
        torch.testing.assert_close(output[row], expected[0, :, 0], atol=1e-5, rtol=1e-5)
