"""The kernels give what gathering gives, on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
from array import array
from random import Random

import pytest
import torch

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.attention import Attends, LayerCall
from shepherd_worker.engine.embedded.model.decode_mirror import DecodeMirror
from shepherd_worker.engine.embedded.model.kv_cache import KvGeometry, PagedKvCache
from shepherd_worker.engine.embedded.model.packing import pack
from shepherd_worker.engine.embedded.model.paged_layout import (
    PagedLayout,
    PageGeometry,
    lay_out_padded,
    lay_out_step,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None,
        reason="Triton is not installed: it comes with PyTorch's CUDA builds only",
    ),
    pytest.mark.skipif(
        DEVICE.type == "cpu" and not INTERPRETED,
        reason="no CUDA device; TRITON_INTERPRET=1 runs the kernels on the CPU",
    ),
]
NUM_BLOCKS = 60
SHAPES = [(4, 2, 8, 4, None), (6, 2, 16, 3, 5), (4, 4, 12, 16, None), (7, 1, 8, 4, 24)]


def caches(num_kv_heads: int, head_dim: int, block_size: int) -> tuple[PagedKvCache, PagedKvCache]:
    """Two of equal content."""
    geometry = KvGeometry(3, num_kv_heads, head_dim)
    first, second = (
        PagedKvCache(geometry, NUM_BLOCKS, block_size, dtype=torch.float32, device=DEVICE)
        for _ in range(2)
    )
    first.storage.copy_(torch.randn(first.storage.shape))
    second.storage.copy_(first.storage)
    return first, second


def segments(block_size: int) -> list[Segment]:
    """Decodes and chunks in an order that gathering, which puts short decodes first, keeps."""
    random = Random(1)
    free = random.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    made = []
    for start, count, num_logits in ((0, 1, 1), (0, 17, 1), (10, 1, 1), (13, 9, 3), (40, 1, 1)):
        num_blocks = -(-(start + count) // block_size)
        blocks = [free.pop() for _ in range(num_blocks)]
        made.append(Segment(array("I", range(count)), start, blocks, num_logits))
    return made


def call(num_tokens: int, num_heads: int, cache: PagedKvCache, window: int | None) -> LayerCall:
    """States as a model hands them over, a view of [heads, tokens, dim] among them."""
    shape = cache.geometry
    kv = (num_tokens, shape.num_kv_heads, shape.head_dim)
    query = torch.randn(num_heads, num_tokens, shape.head_dim, device=DEVICE).transpose(0, 1)
    key, value = (torch.randn(kv, device=DEVICE) for _ in range(2))
    return LayerCall(1, query, key, value, None, window, frozenset())


def first_rows(given: LayerCall, count: int) -> LayerCall:
    states = (given.query[:count], given.key[:count], given.value[:count])
    return LayerCall(given.layer, *states, given.scale, given.window, given.other)


def paged(cache: PagedKvCache, layout: PagedLayout) -> Attends:
    from shepherd_worker.engine.embedded.model.paged_attention import PagedBatch, PagedInputs

    numbers = torch.tensor(layout.numbers, dtype=torch.int32, device=DEVICE)
    return PagedBatch(cache, PagedInputs.view(numbers, layout), layout.num_decodes)


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim", "block_size", "window"), SHAPES)
def test_kernels_attend_and_write_as_gathering_does(
    num_heads: int, num_kv_heads: int, head_dim: int, block_size: int, window: int | None
) -> None:
    torch.manual_seed(0)
    gathered, in_place = caches(num_kv_heads, head_dim, block_size)
    work = segments(block_size)
    geometry = PageGeometry(block_size, in_place.rows_per_block, 64 // (num_heads // num_kv_heads))
    layout = lay_out_step(work, geometry)
    given = call(layout.num_tokens, num_heads, gathered, window)

    wanted = pack(work, gathered, DecodeMirror(gathered)).attention.attend(given)
    torch.testing.assert_close(paged(in_place, layout).attend(given), wanted, atol=3e-6, rtol=1e-4)
    assert torch.equal(in_place.storage, gathered.storage)


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim", "block_size", "window"), SHAPES)
def test_padding_sees_nothing_and_writes_nothing(
    num_heads: int, num_kv_heads: int, head_dim: int, block_size: int, window: int | None
) -> None:
    torch.manual_seed(0)
    gathered, in_place = caches(num_kv_heads, head_dim, block_size)
    decodes = [segment for segment in segments(block_size) if segment.is_decode]
    layout = lay_out_padded(decodes, PageGeometry(block_size, in_place.rows_per_block, 1), 8)
    given = call(8, num_heads, gathered, window)

    got = paged(in_place, layout).attend(given)
    wanted = pack(decodes, gathered, DecodeMirror(gathered)).attention.attend(
        first_rows(given, len(decodes))
    )
    torch.testing.assert_close(got[: len(decodes)], wanted, atol=3e-6, rtol=1e-4)
    assert not got[len(decodes) :].any()
    assert torch.equal(in_place.storage, gathered.storage)


def test_decodes_are_split_until_the_device_is_full() -> None:
    from shepherd_worker.engine.embedded.model.paged_attention import choose_num_splits

    assert [choose_num_splits(count, 8) for count in (1, 2, 3, 8, 32, 64, 500)] == [
        *(32, 16, 8, 4, 1, 1, 1)
    ]
