"""What `--dtype` means for a model: the type that it computes in, and its weights'."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from shepherd_worker.engine.embedded.model.linear import (
    Int8Linear,
    PackedLinear,
    can_pack,
    can_quantise,
    replace_linears,
)
from shepherd_worker.errors import UnusableInputError

_COMPUTED_IN = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,
}


@dataclass(frozen=True, slots=True)
class Precision:
    """How a model's numbers are held."""

    dtype: torch.dtype
    """Of everything that is computed, and of the KV."""
    weights: str
    """Of the linear layers' weights; they decide too what a block's KV is worth."""


def choose_precision(option: str, stored: torch.dtype | None, device: torch.device) -> Precision:
    """`auto` is float32 on a CPU, where answers are then exact, else what the weights have.

    Raises:
        UnusableInputError: the option is unknown, or this device cannot do it.
    """
    if option == "auto":
        dtype = torch.float32 if device.type == "cpu" else stored or torch.bfloat16
        return Precision(dtype, str(dtype).removeprefix("torch."))
    if option not in _COMPUTED_IN:
        raise UnusableInputError(f"dtype={option!r}: expected auto, {', '.join(_COMPUTED_IN)}")
    if option == "int8" and device.type != "cpu":
        raise UnusableInputError(
            f"dtype='int8' is for the CPU, not for {device.type}: use bfloat16 or float16"
        )
    if option == "int8" and not can_quantise():
        raise UnusableInputError(
            f"dtype='int8': this CPU ({torch.backends.cpu.get_cpu_capability()}) with torch "
            f"{torch.__version__} has no exact 8-bit products: use float32 or bfloat16"
        )
    return Precision(_COMPUTED_IN[option], option)


def prepare_linears(module: nn.Module, precision: Precision, device: torch.device) -> None:
    """Lay a loaded model's weights out for the device; on a CPU that cannot, leave them."""
    if precision.weights == "int8":
        replace_linears(module, Int8Linear)
    elif device.type == "cpu" and can_pack(precision.dtype):
        replace_linears(module, PackedLinear)
    for parameter in module.parameters():
        if parameter.untyped_storage().nbytes() > parameter.nbytes:
            # a piece of the mapped file: it would keep the weights mapped that were replaced
            parameter.data = parameter.data.clone()
