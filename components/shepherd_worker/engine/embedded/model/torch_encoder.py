"""An `ImageEncoder` that computes with torch and the vision half of a transformers model."""

from __future__ import annotations

import torch
import transformers

from shepherd_worker.engine.embedded.model.causal_model import choose_device, load_model
from shepherd_worker.engine.embedded.model.vision import TorchVisionTower, load_vision, reads_images
from shepherd_worker.engine.embedded.weights import find_model, find_weights
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import EncoderInfo, ImageCounts, ImageProcessor
from shepherd_worker.errors import EngineFailedError
from shepherd_worker.image import Array, PreparedImage


class TorchImageEncoder:
    """See the module's docstring."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._tower: TorchVisionTower

    def load(self) -> EncoderInfo:
        """See `ImageEncoder.load`; the language model is dropped once its files are read."""
        config = self._config
        directory = find_model(config.model)
        weights = find_weights(directory)
        model = load_model(directory, dtype=config.dtype, device=choose_device(config.device))
        if not reads_images(model.module.config):
            kind = model.module.config.model_type
            raise EngineFailedError(
                f"a model of type {kind!r} has no images to encode: --role encode is for "
                "vision-language models of LLaVA or Qwen2-VL type"
            )
        self._tower = load_vision(
            model.module, model.precision, directory, weights, config.embedding_cache_bytes
        )
        model.module.model.language_model = None
        model.module.lm_head = None
        return EncoderInfo(
            version=f"transformers {transformers.__version__}, torch {torch.__version__}",
            model_directory=str(directory),
            vision=self._tower.limits,
            vocab_size=model.vocab_size,
            max_seq_len=model.max_seq_len,
            eos_token_ids=model.eos_token_ids,
        )

    def image_processor(self) -> ImageProcessor:
        """See `ImageEncoder.image_processor`."""
        return self._tower.processor

    def encode(self, image: PreparedImage) -> Array:
        """See `VisionTower.encode`."""
        return self._tower.encode(image)

    def image_counts(self) -> ImageCounts:
        """See `VisionTower.image_counts`."""
        return self._tower.image_counts()
