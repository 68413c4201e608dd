"""A linear layer laid out for the CPU computes what `nn.Linear` computes."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shepherd_worker.engine.embedded.model.linear import (
    Int8Linear,
    PackedLinear,
    can_pack,
    can_quantise,
    padded_rows,
    replace_linears,
)

ROWS = [0, 1, 2, 9, 33, 300]
needs_packing = pytest.mark.skipif(
    not can_pack(torch.float32), reason="this torch and CPU have no packed products"
)
needs_int8 = pytest.mark.skipif(
    not can_quantise(), reason="this torch and CPU have no exact 8-bit products"
)


def layer(num_in: int = 48, num_out: int = 40, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(num_in, num_out, bias=bias).eval().requires_grad_(False)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
def test_packed_weights_give_the_same_products(rows: int, bias: bool) -> None:
    plain = layer(bias=bias)
    packed = PackedLinear(plain.weight, plain.bias)
    states = torch.randn(1, rows, 48)

    assert packed(states).shape == (1, rows, 40)
    torch.testing.assert_close(packed(states), plain(states), atol=1e-5, rtol=1e-5)


@needs_int8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
def test_8_bit_weights_are_within_one_percent(rows: int, bias: bool) -> None:
    plain = layer(bias=bias)
    states = torch.randn(1, rows, 48)
    expected, given_ = plain(states), Int8Linear(plain.weight, plain.bias)(states)

    assert given_.shape == expected.shape
    assert (given_ - expected).norm() <= 0.01 * expected.norm()


@needs_int8
def test_an_8_bit_row_does_not_depend_on_its_neighbours() -> None:
    plain = layer()
    rounded = Int8Linear(plain.weight, plain.bias)
    states = torch.randn(33, 48) * torch.logspace(-3, 3, 33)[:, None]
    together = rounded(states)

    assert all(torch.equal(rounded(states[i : i + 1])[0], together[i]) for i in range(33))


@needs_int8
def test_the_largest_8_bit_values_do_not_overflow() -> None:
    rounded = Int8Linear(torch.full((16, 4096), 3.0), None)

    assert rounded(torch.full((2, 4096), -5.0)) == pytest.approx(-15.0 * 4096)


@needs_int8
def test_a_row_of_zeros_gives_the_bias_and_what_is_not_finite_stays_so() -> None:
    plain = layer()
    states = torch.zeros(3, 48)
    states[1, 7], states[2, 7] = torch.inf, torch.nan
    output = Int8Linear(plain.weight, plain.bias)(states)

    assert torch.equal(output[0], plain.bias)
    assert not output[1:].isfinite().any()


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_rows_are_filled_up_by_less_than_a_quarter(count: int, other: int) -> None:
    filled = padded_rows(count)

    assert count <= filled < 1.25 * count
    assert padded_rows(filled) == filled
    assert (padded_rows(other) <= filled) or other > count


def test_there_are_few_numbers_of_rows() -> None:
    sizes = {padded_rows(count) for count in range(1, 513)}

    assert len(sizes) == 32
    assert set(range(1, 9)) <= sizes


class Block(nn.Module):
    """Layers of every kind that a model has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layer(48, 48)
        self.again = self.first
        self.rest = nn.Sequential(layer(48, 40), nn.Conv1d(1, 1, 3))


@needs_packing
def test_layers_are_replaced_once_and_their_weights_let_go() -> None:
    block = Block()
    convolution = block.rest[1]
    weights = [weakref.ref(block.first.weight), weakref.ref(block.rest[0].weight)]
    count = replace_linears(block, PackedLinear)

    assert count == 2
    assert type(block.first) is PackedLinear
    assert block.again is block.first
    assert block.rest[1] is convolution
    assert [weight() for weight in weights] == [None, None]
