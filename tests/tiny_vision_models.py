"""Random vision-language models small enough for a test, in Hugging Face layout, and pictures for them."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Literal

from shepherd_worker.image import DecodedImage
from tiny_models import IM_END, MAX_SEQ_LEN, write_tokenizer

VisionKind = Literal["llava", "qwen2_vl", "qwen2_5_vl"]

IMAGE_TOKEN = "<|image|>"
PATCH_SIZE = 4
LLAVA_IMAGE_SIZE = 16
"""Every picture becomes 16 by 16 pixels, 16 tokens."""
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<|image|>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_vision_model(directory: Path, kind: VisionKind = "llava", seed: int = 0) -> Path:
    """Write a model, its tokenizer, image processor and configuration; returns the directory."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    directory.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(directory, special_tokens=(IMAGE_TOKEN,), chat_template=_TEMPLATE)
    config = AutoConfig.for_model(kind, **_shape(kind, len(vocab), vocab[IMAGE_TOKEN]))
    config.get_text_config().eos_token_id = vocab[IM_END]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
    model.generation_config = GenerationConfig(eos_token_id=vocab[IM_END], do_sample=False)
    model.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(_processor(kind)))
    return directory


@functools.cache
def tiny_vision_model(kind: VisionKind = "llava", seed: int = 0) -> Path:
    """The directory of a model that all tests of a session share; not to be changed."""
    directory = Path(tempfile.mkdtemp(prefix=f"tiny-{kind}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return make_tiny_vision_model(directory, kind, seed)


@functools.cache
def picture(seed: int, width: int = 16, height: int = 16) -> DecodedImage:
    """Coloured noise."""
    return DecodedImage(width, height, Random(seed).randbytes(width * height * 3))


def _shape(kind: VisionKind, vocab_size: int, image_token_id: int) -> dict[str, Any]:
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_SEQ_LEN,
        "vocab_size": vocab_size,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if kind == "llava":
        vision = {
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": LLAVA_IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "projection_dim": 16,
        }
        text["model_type"] = "llama"
        return {"text_config": text, "vision_config": vision, "image_token_index": image_token_id}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [2, 1, 1],
    }
    vision = {"depth": 2, "num_heads": 2, "patch_size": PATCH_SIZE, "spatial_merge_size": 2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 32}
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": image_token_id,
        "vision_start_token_id": 0,
        "vision_end_token_id": 0,
        "video_token_id": 1,
    }


def _processor(kind: VisionKind) -> dict[str, Any]:
    if kind == "llava":
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"height": LLAVA_IMAGE_SIZE, "width": LLAVA_IMAGE_SIZE},
            "do_center_crop": False,
        }
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": PATCH_SIZE,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 8 * 8, "longest_edge": 64 * 64},
    }
