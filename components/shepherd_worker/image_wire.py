"""Images in dictionaries: what a request names, and what an encode worker answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from shepherd_worker.engine.protocol import EncodedImage
from shepherd_worker.errors import EncodeWorkerError, InvalidRequestError

MediaParts = Mapping[str, Sequence[Mapping[str, Any]]]
"""`multi_modal_data` of a request: parts by kind, such as `image_url`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an encode worker's client did wrong."""

    field: str
    value: str
    expected: str


@dataclass(frozen=True, slots=True)
class EncodeAnswer:
    """What an encode worker says: images, or why there are none."""

    images: list[EncodedImage] | None = None
    refused: Refusal | None = None


_ANSWER = TypeAdapter(EncodeAnswer)


def image_urls(media: MediaParts | None) -> list[str]:
    """The URLs of a request's images, in the order of their places in the prompt.

    Raises:
        InvalidRequestError: a part is no image, or none that has a URL.
    """
    parts = media or {}
    other = sorted(kind for kind, found in parts.items() if found and kind != "image_url")
    if other:
        raise InvalidRequestError(other[0], len(parts[other[0]]), "text and images only")
    urls = [part.get("Url") for part in parts.get("image_url", ())]
    if not all(isinstance(url, str) for url in urls):
        raise InvalidRequestError("image_url", len(urls), "a URL for every image")
    return [str(url) for url in urls]


def render_encode_request(urls: Sequence[str]) -> dict[str, Any]:
    """What an encode worker is asked: the images, as a request names them."""
    return {"multi_modal_data": {"image_url": [{"Url": url} for url in urls]}}


def render_encode_answer(answer: EncodeAnswer) -> dict[str, Any]:
    """As plain JSON values."""
    dumped: dict[str, Any] = _ANSWER.dump_python(answer, mode="json")
    return dumped


def parse_encode_answer(chunk: dict[str, Any]) -> list[EncodedImage]:
    """The images of an encode worker's answer.

    Raises:
        InvalidRequestError: it refused one of them.
        EncodeWorkerError: the answer is none.
    """
    try:
        answer = _ANSWER.validate_python(chunk)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise EncodeWorkerError(f"its answer is not one: {first['loc']} {first['msg']}") from None
    if answer.refused is not None:
        refused = answer.refused
        raise InvalidRequestError(refused.field, refused.value, refused.expected)
    if answer.images is None:
        raise EncodeWorkerError("its answer has no images")
    return answer.images
