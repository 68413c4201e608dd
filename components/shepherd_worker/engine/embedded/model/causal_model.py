"""Loading a causal language model, and learning from one dry run what its KV looks like.

The architecture is not looked up in a list: a model is supported when each of
its layers calls our attention exactly once, with KV of one shape and nothing
that our attention does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from shepherd_worker.engine.embedded.model.attention import ATTENTION_NAME, Attends, LayerCall
from shepherd_worker.engine.embedded.model.kv_cache import KvGeometry
from shepherd_worker.engine.embedded.model.precision import (
    Precision,
    choose_precision,
    prepare_linears,
)
from shepherd_worker.engine.embedded.model.vision import reads_images
from shepherd_worker.engine.embedded.parallel.tensor_parallel import Share
from shepherd_worker.errors import EngineFailedError, UnusableInputError

_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A model that computes with our attention."""

    module: Any
    """A `PreTrainedModel`; transformers is not typed."""
    geometry: KvGeometry
    group_size: int
    """Query heads that share a KV head."""
    vocab_size: int
    max_seq_len: int
    eos_token_ids: frozenset[int]
    precision: Precision
    device: torch.device

    def logits(
        self,
        token_ids: Tensor,
        positions: Tensor,
        rows: Tensor | slice,
        paged: Attends,
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """Logits [len(rows), vocab_size] after those `rows` of a packed batch [T].

        `positions` are [T], or [3, T] within images; `embeddings` [T, hidden_size]
        stand in for `token_ids` where they are given.
        """
        return _forward(self.module, token_ids, positions, rows, paged, embeddings)


def choose_device(option: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        UnusableInputError: the device is unknown or absent.
    """
    name = option if option != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnusableInputError(f"device={option!r}: expected auto, cpu or cuda") from error
    if device.type not in {"cpu", "cuda"}:
        raise UnusableInputError(f"device={option!r}: expected auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnusableInputError(f"device={option!r}: this machine has no usable CUDA device")
    return device


def load_model(
    directory: Path, *, dtype: str, device: torch.device, share: Share | None = None
) -> CausalModel:
    """Load a model whose files are known to be whole.

    Raises:
        UnusableInputError: `dtype` is unknown, or not for this device.
        EngineFailedError: the weights do not load, or the architecture is not supported.
    """
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        _check_rope(config)
        precision = choose_precision(dtype, getattr(config, "dtype", None), device)
        module = _load_weights(directory, precision.dtype, _model_class(config))
        if share is not None:
            share.cut(module)
        module = module.to(device).eval()
        prepare_linears(module, precision, device)
        module.set_attn_implementation(_attention(config))
        geometry, group_size = _learn_geometry(module, device)
    except (EngineFailedError, UnusableInputError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [repr(error)]
        raise EngineFailedError(f"the model in {directory} does not load: {reason[0]}") from error
    text = config.get_text_config()
    return CausalModel(
        module=module,
        geometry=geometry,
        group_size=group_size,
        vocab_size=text.vocab_size,
        max_seq_len=text.max_position_embeddings,
        eos_token_ids=_eos_token_ids(module),
        precision=precision,
        device=device,
    )


@torch.inference_mode()
def _forward(
    module: Any,
    token_ids: Tensor,
    positions: Tensor,
    rows: Tensor | slice,
    paged: Attends,
    embeddings: Tensor | None = None,
) -> Tensor:
    output = module(
        input_ids=token_ids[None] if embeddings is None else None,
        inputs_embeds=None if embeddings is None else embeddings[None],
        position_ids=positions.unsqueeze(-2),
        use_cache=False,
        logits_to_keep=rows,
        paged=paged,
    )
    logits: Tensor = output.logits[0]
    return logits


def _model_class(config: Any) -> Any:
    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def _attention(config: Any) -> str | dict[str, str]:
    """Ours for the language model alone: a vision tower sees all of its patches at once."""
    return {"text_config": ATTENTION_NAME} if reads_images(config) else ATTENTION_NAME


def _load_weights(directory: Path, dtype: torch.dtype, model_class: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()
    module, report = model_class.from_pretrained(
        directory,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            named = ", ".join(sorted(map(str, report[problem]))[:3])
            raise EngineFailedError(
                f"the weights in {directory} do not fit the model: {problem} {named}"
            )
    return module


def _check_rope(config: Any) -> None:
    """Rotations that change with the length of a sequence would change what is cached."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, dict)]
    for parameters in (rope, *nested):
        if parameters.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            raise EngineFailedError(
                f"rope_type {parameters['rope_type']!r} is not supported: its rotations depend on "
                "the length of the sequence, so that cached KV could not be reused"
            )


def _eos_token_ids(module: Any) -> frozenset[int]:
    for source in (module.generation_config, module.config.get_text_config()):
        eos = getattr(source, "eos_token_id", None)
        if eos is not None:
            return frozenset(eos if isinstance(eos, list) else [eos])
    return frozenset()


@dataclass(slots=True)
class _DryRun:
    """Stands in for the cache and notes what each layer asks of it."""

    calls: list[LayerCall] = field(default_factory=list)

    def attend(self, call: LayerCall) -> Tensor:
        """See `Attends.attend`."""
        self.calls.append(call)
        return torch.zeros_like(call.query)


def _learn_geometry(module: Any, device: torch.device) -> tuple[KvGeometry, int]:
    """What the KV looks like, and how many query heads share a KV head."""
    run, last = _DryRun(), torch.tensor([1], device=device)
    logits = _forward(module, last.repeat(2), torch.arange(2, device=device), last, run)
    name = type(module).__name__
    layers = sorted(call.layer for call in run.calls)
    shapes = {states.shape for call in run.calls for states in (call.key, call.value)}
    unknown = sorted({argument for call in run.calls for argument in call.other})
    if unknown:
        raise EngineFailedError(
            f"{name} is not supported: its attention needs {', '.join(unknown)}"
        )
    if not layers or layers != list(range(len(layers))) or len(shapes) != 1:
        raise EngineFailedError(f"{name} is not supported: its layers do not keep KV of one shape")
    if len(logits) != 1:
        raise EngineFailedError(f"{name} is not supported: it computes logits of every token")
    _, num_kv_heads, head_dim = shapes.pop()
    num_heads = run.calls[0].query.shape[1]
    return KvGeometry(len(layers), num_kv_heads, head_dim), num_heads // num_kv_heads
