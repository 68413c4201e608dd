"""TensorRT-LLM's `MultimodalEncoder` as an `ImageEncoder`, for the encode role.

It gives handles of tensors that only processes of its machine can open; they are
opened here, and the embeddings travel the way all of ours do: leased under a
ticket, to a worker on any machine.
"""

from __future__ import annotations

from typing import Any

from shepherd_worker.engine.embedding_cache import EmbeddingCache
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.trtllm.images import TrtllmImageProcessor, load_processor, picture
from shepherd_worker.engine.trtllm.library import Library
from shepherd_worker.engine.trtllm.model import read_model
from shepherd_worker.engine.vision import EncoderInfo, ImageCounts
from shepherd_worker.errors import EngineFailedError
from shepherd_worker.image import Array, PreparedImage


class TrtllmImageEncoder:
    """See the module's docstring; one thread's, but for `image_processor` and `image_counts`."""

    def __init__(self, config: EngineConfig, library: Library) -> None:
        self._config = config
        self._library = library
        self._cache: EmbeddingCache[Array] = EmbeddingCache(config.embedding_cache_bytes)
        self._num_encoded = 0
        self._processor: TrtllmImageProcessor
        self._encoder: Any = None

    def load(self) -> EncoderInfo:
        """See `ImageEncoder.load`."""
        config, library = self._config, self._library
        model = read_model(config)
        if model.vision is None:
            raise EngineFailedError(
                f"{model.directory} names no image token: --role encode has nothing to encode"
            )
        if library.MultimodalEncoder is None or library.SharedTensorContainer is None:
            raise EngineFailedError(
                f"TensorRT-LLM {library.version} has no MultimodalEncoder: use --engine torch"
            )
        self._encoder = library.MultimodalEncoder(
            model=config.model,
            max_batch_size=1,
            trust_remote_code=config.trtllm.trust_remote_code,
            tensor_parallel_size=config.tensor_parallel_size,
        )
        self._processor = load_processor(library, model, self._encoder.tokenizer)
        return EncoderInfo(
            version=library.version,
            model_directory=str(model.directory),
            vision=model.vision,
            vocab_size=model.vocab_size,
            max_seq_len=model.max_seq_len,
            eos_token_ids=model.eos_token_ids,
        )

    def image_processor(self) -> TrtllmImageProcessor:
        """See `ImageEncoder.image_processor`."""
        return self._processor

    def encode(self, image: PreparedImage) -> Array:
        """See `VisionTower.encode`.

        Raises:
            EngineFailedError: what came back are not this image's embeddings.
        """
        kept = self._cache.get(image.digest)
        if kept is not None:
            return kept
        embeddings = self._compute(image)
        self._cache.put(image.digest, embeddings, len(embeddings.data))
        return embeddings

    def image_counts(self) -> ImageCounts:
        """See `VisionTower.image_counts`."""
        return ImageCounts(
            encoded_total=self._num_encoded,
            found_total=self._cache.hits_total,
            cache_bytes=self._cache.num_bytes,
        )

    def _compute(self, image: PreparedImage) -> Array:
        self._num_encoded += 1
        asked = {
            "prompt_token_ids": [self._processor.image_token_id],
            "multi_modal_data": {"image": [picture(image.pixels)]},
            "mm_processor_kwargs": {},
        }
        (result,) = self._encoder.generate([asked])
        handles = result.disaggregated_params.multimodal_embedding_handles or []
        if len(handles) != 1:
            raise EngineFailedError(f"TensorRT-LLM gave {len(handles)} embeddings for an image")
        container = self._library.SharedTensorContainer.from_dict(handles[0])
        found = _array(container.get_local_view())
        if found.shape[0] != image.num_tokens:
            raise EngineFailedError(
                f"an image of {image.num_tokens} tokens has embeddings of shape {found.shape}"
            )
        return found


def _array(tensor: Any) -> Array:
    """A copy in host memory."""
    import torch  # noqa: PLC0415 - comes with TensorRT-LLM

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    name = str(tensor.dtype).removeprefix("torch.")
    return Array(name, tuple(tensor.shape), flat.numpy().tobytes())
