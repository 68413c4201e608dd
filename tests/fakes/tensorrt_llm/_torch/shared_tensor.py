"""Tensors that another process of the machine can open, by a dictionary."""

from __future__ import annotations

from typing import Any

import torch


class SharedTensorContainer:
    """Keeps the bytes in the dictionary itself, where the real one keeps a handle of the GPU's."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> SharedTensorContainer:
        return cls(tensor)

    @classmethod
    def from_dict(cls, handle: dict[str, Any]) -> SharedTensorContainer:
        kind = getattr(torch, handle["dtype"])
        data = torch.frombuffer(bytearray(handle["data"]), dtype=kind)
        return cls(data.view(handle["shape"]))

    def dump_to_dict(self) -> dict[str, Any]:
        data = self._tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        name = str(self._tensor.dtype).removeprefix("torch.")
        return {"dtype": name, "shape": list(self._tensor.shape), "data": data}

    def get_local_view(self) -> torch.Tensor:
        return self._tensor
