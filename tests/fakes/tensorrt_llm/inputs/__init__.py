"""Multimodal inputs."""

from __future__ import annotations

from typing import Any

from trtllm_backend.images import InputProcessor


def default_multimodal_input_loader(
    *,
    tokenizer: Any,
    model_dir: str,
    model_type: str,
    modality: str,
    prompts: list[str],
    media: Any = None,
    image_data_format: str = "pt",
    num_frames: int = 8,
    mm_embeddings: Any = None,
    device: str = "cpu",
    extract_audio: bool = False,
) -> Any:
    raise NotImplementedError


def create_input_processor(model_path_or_dir: str, tokenizer: Any) -> InputProcessor:
    """What expands the prompts of a model."""
    return InputProcessor(model_path_or_dir, tokenizer)
