"""Linear layers whose weights lie as this CPU's kernels read them.

    packed   oneDNN's blocked layout, in the model's own type: the same products,
             added in another order
    int8     one byte per weight and one scale per output; each token's input is
             rounded to 8 bits by its own largest value, so that an answer does not
             depend on what else is in the batch

oneDNN compiles and keeps a kernel for every number of rows that it meets: rows are
filled up to one of a few numbers, so that these kernels stay few too.

The original weights are let go as their layers are replaced.  The operators are
the ones that torch's compiler uses; they have no public names, so `can_pack` and
`can_quantise` compute something known with them first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

_UINT8_ZERO = 128
_INT8_MAX = 127
_SMALLEST = 1e-30
"""Stands in for the largest value of a row of zeros."""


class PackedLinear(nn.Module):
    """`nn.Linear` in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` is [out, in]; it is not kept."""
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001 - it has no other name
            weight.detach()
        )
        self._bias = None if bias is None else bias.detach()

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        rows = states.flatten(0, -2)
        spare = padded_rows(len(rows)) - len(rows)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - it has no other name
            pad(rows, (0, 0, 0, spare)) if spare else rows,
            self._weight,
            self._bias,
            "none",
            [],
            "",
        )
        return output[: len(rows)].view(*states.shape[:-1], output.shape[-1])


class Int8Linear(nn.Module):
    """`nn.Linear` with weights and inputs of 8 bits; sums and outputs are float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` is [out, in]; it is not kept."""
        super().__init__()
        weight = weight.detach().float()
        self._scales = weight.abs().amax(1).clamp_min_(_SMALLEST) / _INT8_MAX
        rounded = (weight / self._scales[:, None]).round_().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._bias = None if bias is None else bias.detach().float()

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        rows = states.flatten(0, -2)
        scales = rows.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST).div_(_INT8_MAX)
        rounded = torch.empty(padded_rows(len(rows)), rows.shape[1], dtype=torch.uint8)
        rounded[: len(rows)] = torch.div(rows, scales).add_(_UINT8_ZERO + 0.5)
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            _UINT8_ZERO,
            self._weight,
            self._scales,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        output = sums[: len(rows)].mul_(scales)
        if self._bias is not None:
            output += self._bias
        return output.view(*states.shape[:-1], output.shape[-1])


def padded_rows(count: int) -> int:
    """The least of 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... that has room for `count` rows."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have the packed product of a type, and get it right."""
    return _agrees(PackedLinear, dtype, tolerance=1e-2 if dtype.itemsize == 2 else 1e-5)


@functools.cache
def can_quantise() -> bool:
    """Whether this torch and this CPU have exact 8-bit products.

    The probe's values are the largest there are: a CPU that adds products in 16
    bits gets them wrong.
    """
    return _agrees(Int8Linear, torch.float32, tolerance=2e-2)


def replace_linears(module: nn.Module, make: Callable[[Tensor, Tensor | None], nn.Module]) -> int:
    """Put `make(weight, bias)` in the place of every `nn.Linear`; how many there were."""
    places: dict[int, list[str]] = {}
    for name, child in module.named_modules(remove_duplicate=False):
        if type(child) is nn.Linear:
            places.setdefault(id(child), []).append(name)
    for names in places.values():
        original = module.get_submodule(names[0])
        assert isinstance(original, nn.Linear)
        made = make(original.weight, original.bias)
        for name in names:
            module.set_submodule(name, made)
    return len(places)


@torch.inference_mode()
def _agrees(
    make: Callable[[Tensor, Tensor | None], Any], dtype: torch.dtype, tolerance: float
) -> bool:
    """Whether products of all sizes of batch are those of `F.linear` in float32."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=generator)
    weight[0] = weight.abs().max()
    bias = torch.randn(32, generator=generator)
    try:
        layer = make(weight.to(dtype), bias.to(dtype))
        for rows in (1, 2, 33):
            states = torch.randn(rows, 64, generator=generator)
            states[0] = states.abs().max()
            expected = linear(
                states.to(dtype).float(), weight.to(dtype).float(), bias.to(dtype).float()
            )
            error = (layer(states.to(dtype)).float() - expected).abs().max()
            if not error <= tolerance * expected.abs().max():
                return False
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return True
