"""Bytes to pixels, with a limit on what they may unfold to.

Knows the formats that browsers show; Pillow reads nothing else here, so that its
rarer parsers never meet hostile bytes.
"""

from __future__ import annotations

import io
import logging

from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import DecodedImage
from shepherd_worker.media.policy import FIELD

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""By their first bytes, whatever the server says; of an animation the first frame is taken."""


def decode_image(data: bytes, *, url: str, max_pixels: int) -> DecodedImage:
    """The picture in `data`, upright and in RGB; blocks, for other threads.

    Raises:
        InvalidRequestError: it is no picture, a broken one, or one of too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - optional

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(*picture.size, url, max_pixels)
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            return DecodedImage(*upright.size, upright.tobytes())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"a picture of at most {max_pixels} pixels"
        raise InvalidRequestError(FIELD, url, limit) from None
    except UnidentifiedImageError:
        raise InvalidRequestError(FIELD, url, f"a picture in {', '.join(FORMATS)}") from None
    except InvalidRequestError:
        raise
    except Exception as error:
        # the edge to a parser of foreign bytes: whatever it raises, the bytes are at fault
        log.info("a picture does not decode: %s", type(error).__name__)
        raise InvalidRequestError(FIELD, url, "a picture that is whole") from error


def _check_size(width: int, height: int, url: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        limit = f"a picture of at most {max_pixels} pixels, got {width}x{height}"
        raise InvalidRequestError(FIELD, url, limit)
