"""The vision half of a vision-language model: what transformers' own code computes, kept by digest.

Two families are known, by how their image processor describes an image:

    LLaVA      every picture has one size, so that all have the same number of tokens
    Qwen2-VL   a picture has a grid of patches, and its tokens have positions in it

Whatever else the text part of a model may do, images of another family are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from shepherd_worker.engine.embedded.model.image_rows import ImageRows
from shepherd_worker.engine.embedded.model.precision import Precision
from shepherd_worker.engine.embedded.weights import WeightFile, fingerprint
from shepherd_worker.engine.embedding_cache import EmbeddingCache
from shepherd_worker.engine.vision import ImageCounts
from shepherd_worker.errors import EngineFailedError, InvalidRequestError
from shepherd_worker.image import Array, DecodedImage, PreparedImage, VisionLimits, pixel_digest

FAMILIES = {"llava": "pixels", "qwen2_vl": "grid", "qwen2_5_vl": "grid"}
"""Model type to family."""
_GRID = "image_grid_thw"


def reads_images(config: Any) -> bool:
    """Whether images can be served for a model of this configuration."""
    return config.model_type in FAMILIES


class TorchImageProcessor:
    """An `ImageProcessor` around the one that the model's files describe."""

    def __init__(self, processor: Any, image_token_id: int, *, merge_size: int | None) -> None:
        """`merge_size` patches in a row and in a column become one token; None without a grid."""
        self.image_token_id = image_token_id
        self._processor = processor
        self._merge_size = merge_size
        self._num_tokens: int | None = None

    def process(self, image: DecodedImage) -> PreparedImage:
        """See `ImageProcessor.process`."""
        from PIL.Image import frombytes  # noqa: PLC0415 - text-only workers have no Pillow

        picture = frombytes("RGB", (image.width, image.height), image.rgb)
        try:
            tensors = self._processor(images=[picture], return_tensors="pt")
        except ValueError as error:
            size = f"{image.width}x{image.height}"
            raise InvalidRequestError("image_url", size, f"another shape: {error}") from error
        pixels = {name: to_array(values) for name, values in tensors.items()}
        grid = None if self._merge_size is None else _grid(tensors[_GRID], self._merge_size)
        return PreparedImage(
            digest=pixel_digest(pixels),
            num_tokens=self._count_tokens(grid),
            grid=grid,
            pixels=pixels,
        )

    def set_num_tokens(self, num_tokens: int) -> None:
        """How many every picture takes, without a grid."""
        self._num_tokens = num_tokens

    def _count_tokens(self, grid: tuple[int, int, int] | None) -> int:
        if grid is not None:
            return grid[0] * grid[1] * grid[2]
        return self._num_tokens or 0


class TorchVisionTower:
    """A `VisionTower`; for the engine's thread."""

    def __init__(
        self,
        module: Any,
        processor: TorchImageProcessor,
        *,
        hidden_size: int,
        dtype: torch.dtype,
        fingerprint: bytes,
        cache_bytes: int,
    ) -> None:
        self.processor = processor
        self.hidden_size = hidden_size
        self._fingerprint = fingerprint
        self._cache: EmbeddingCache[Tensor] = EmbeddingCache(cache_bytes)
        self._num_encoded = 0
        self._module = module
        self._dtype = dtype
        self._device = next(module.parameters()).device

    def encode(self, image: PreparedImage) -> Array:
        """See `VisionTower.encode`."""
        return to_array(self.embeddings(image))

    @property
    def limits(self) -> VisionLimits:
        """What a request's images are checked against."""
        return VisionLimits(self.processor.image_token_id, self.hidden_size, self._fingerprint)

    def image_counts(self) -> ImageCounts:
        """See `VisionTower.image_counts`."""
        return ImageCounts(
            encoded_total=self._num_encoded,
            found_total=self._cache.hits_total,
            cache_bytes=self._cache.num_bytes,
        )

    def embed(self, token_ids: Tensor, images: Iterable[ImageRows]) -> Tensor | None:
        """The embeddings [T, hidden_size] of a packed batch; None where no row is an image's."""
        placed = list(images)
        if not placed:
            return None
        embeddings: Tensor = self._module.get_input_embeddings()(token_ids)
        for rows in placed:
            source = self.embeddings(rows.image)[rows.first : rows.first + rows.count]
            embeddings[rows.row : rows.row + rows.count] = source.to(embeddings.dtype)
        return embeddings

    @torch.inference_mode()
    def embeddings(self, image: PreparedImage) -> Tensor:
        """[num_tokens, hidden_size] on the model's device: kept, handed over, or computed now."""
        kept = self._cache.get(image.digest)
        if kept is not None:
            return kept
        if image.embeddings is not None:
            embeddings = to_tensor(image.embeddings).to(self._device)
        else:
            embeddings = self._compute(image.pixels)
        self._cache.put(image.digest, embeddings, embeddings.nbytes)
        return embeddings

    def _compute(self, pixels: Mapping[str, Array]) -> Tensor:
        self._num_encoded += 1
        given = {name: to_tensor(values).to(self._device) for name, values in pixels.items()}
        given["pixel_values"] = given["pixel_values"].to(self._dtype)
        features = self._module.get_image_features(**given, return_dict=True).pooler_output
        (embeddings,) = features
        found: Tensor = embeddings
        return found


def load_vision(
    module: Any,
    precision: Precision,
    directory: Path,
    weights: tuple[WeightFile, ...],
    cache_bytes: int,
) -> TorchVisionTower:
    """The vision half of a loaded model that `reads_images`; encodes one picture to see that it does.

    Raises:
        EngineFailedError: the image processor's files are missing or do not fit the model.
    """
    config = module.config
    has_grid = FAMILIES[config.model_type] == "grid"
    try:
        processor = TorchImageProcessor(
            AutoImageProcessor.from_pretrained(directory, backend="pil", local_files_only=True),
            config.image_token_id,
            merge_size=config.vision_config.spatial_merge_size if has_grid else None,
        )
        hidden_size = config.get_text_config().hidden_size
        tower = TorchVisionTower(
            module,
            processor,
            hidden_size=hidden_size,
            dtype=precision.dtype,
            fingerprint=fingerprint(directory, weights, f"embeddings {precision.weights}"),
            cache_bytes=cache_bytes,
        )
        _try_out(tower, processor)
    except (OSError, ImportError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines() or [repr(error)]
        raise EngineFailedError(
            f"the image processor in {directory} does not work: {reason[0]}"
        ) from error
    return tower


def _try_out(tower: TorchVisionTower, processor: TorchImageProcessor) -> None:
    image = processor.process(DecodedImage(64, 64, bytes(64 * 64 * 3)))
    shape = tuple(tower.embeddings(image).shape)
    if image.grid is None:
        processor.set_num_tokens(shape[0])
    elif shape != (image.num_tokens, tower.hidden_size):
        raise ValueError(f"an image of {image.num_tokens} tokens has embeddings of shape {shape}")


def to_array(values: Tensor) -> Array:
    """A copy in host memory, as bytes."""
    data = values.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    return Array(str(values.dtype).removeprefix("torch."), tuple(values.shape), data)


def to_tensor(values: Array) -> Tensor:
    """A copy of the bytes as a tensor in host memory.

    Raises:
        ValueError: the bytes are not of the type and shape that are said.
    """
    dtype = getattr(torch, values.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype {values.dtype!r} is not one of torch's")  # noqa: TRY004 - a value
    return torch.frombuffer(bytearray(values.data), dtype=dtype).view(values.shape)


def _grid(patches: Tensor, merge_size: int) -> tuple[int, int, int]:
    frames, rows, columns = patches[0].tolist()
    return frames, rows // merge_size, columns // merge_size
