"""One model on several devices: each holds a share of every large matrix.

Which matrices are cut, and along which side, is the plan that transformers keeps
for each architecture.  A matrix cut by columns needs nothing from the other
devices; the one cut by rows that follows it adds the shares up.  Heads are never
cut, so each device caches and attends to its own heads.  Embeddings, norms and
the output layer are whole on every device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import AutoConfig

from shepherd_worker.engine.embedded.model.vision import reads_images
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import EngineFailedError, UnusableInputError

_COLUMNS, _ROWS = "colwise", "rowwise"
_WHOLE = frozenset(
    {
        "colwise_gather_output",
        "colwise_rep",
        "embedding_rowwise",
        "replicated_with_grad_allreduce",
    }
)
"""Styles for which a whole copy on each device computes the same."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a model a process holds; its process group is the default one."""

    rank: int
    size: int

    def cut(self, module: Any) -> None:
        """Keep this share of a loaded model, before it moves to its device.

        Raises:
            EngineFailedError: there is no plan for the model, or one that is not understood.
        """
        self._check(module)
        patterns = {
            re.compile(re.escape(name).replace(r"\*", r"\d+")): style
            for name, style in module.tp_plan.items()
        }
        for name, part in list(module.named_modules()):
            style = next((s for p, s in patterns.items() if p.fullmatch(name)), None)
            if style in {_COLUMNS, _ROWS}:
                self._cut_linear(part, by_rows=style == _ROWS)
            if style == _ROWS:
                module.set_submodule(name, nn.Sequential(part, AddUp()))

    def _check(self, module: Any) -> None:
        plan: dict[str, str] = getattr(module, "tp_plan", None) or {}
        unknown = set(plan.values()) - _WHOLE - {_COLUMNS, _ROWS}
        if unknown or _ROWS not in plan.values():
            raise EngineFailedError(
                f"{type(module).__name__} cannot be cut for tensor parallelism: "
                + (f"its plan has {', '.join(sorted(unknown))}" if unknown else "it has no plan")
            )

    def _cut_linear(self, part: nn.Linear, *, by_rows: bool) -> None:
        part.weight = self._piece(part.weight, dim=1 if by_rows else 0)
        bias: nn.Parameter | None = part.bias
        if bias is not None and not by_rows:
            part.bias = self._piece(bias, dim=0)
        elif bias is not None and self.rank:
            part.register_parameter("bias", None)  # it is added once, by the first

    def _piece(self, whole: Tensor, dim: int) -> nn.Parameter:
        piece = whole.detach().chunk(self.size, dim)[self.rank]
        return nn.Parameter(piece.clone(memory_format=torch.contiguous_format), requires_grad=False)


def check_parallel(config: EngineConfig, directory: Path, device: torch.device) -> None:
    """Refuse what several processes cannot do together, before any is started.

    Raises:
        UnusableInputError: there are too few devices, the heads do not divide among them,
            or an option or the model does not go with it.
    """
    size = config.tensor_parallel_size
    option = f"tensor_parallel_size={size}"
    model = AutoConfig.from_pretrained(directory, local_files_only=True)
    text = model.get_text_config()
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    if heads % size or kv_heads % size:
        raise UnusableInputError(
            f"{option}: expected a divisor of the model's {heads} heads and {kv_heads} KV heads"
        )
    if device.type == "cuda" and torch.cuda.device_count() < size:
        raise UnusableInputError(
            f"{option}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if config.torch_compile or reads_images(model):
        what = "torch_compile" if config.torch_compile else "a model that reads images"
        raise UnusableInputError(f"{option}: expected 1 with {what}")


class AddUp(nn.Module):
    """The sum of what every process of the group has computed, in place."""

    def forward(self, share: Tensor) -> Tensor:
        """Waits for the others."""
        distributed.all_reduce(share)
        return share
