"""Bytes to pixels: the right ones, or a refusal."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from media_server import png
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import DecodedImage
from shepherd_worker.media.decode import decode_image
from tiny_vision_models import picture


def decode(data: bytes, max_pixels: int = 10_000) -> DecodedImage:
    return decode_image(data, url="https://host/a", max_pixels=max_pixels)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_was_painted_comes_back() -> None:
    assert decode(png(picture(1, 7, 5))) == picture(1, 7, 5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format_of_the_web_is_read(kind: str) -> None:
    image = decode(saved(Image.new("RGB", (8, 6), (200, 30, 40)), kind))

    assert (image.width, image.height, len(image.rgb)) == (8, 6, 8 * 6 * 3)
    assert image.rgb[0] == pytest.approx(200, abs=12)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"

    assert len(decode(saved(Image.new(mode, (3, 2)), kind)).rgb) == 3 * 2 * 3


def test_a_photograph_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter

    image = decode(saved(Image.new("RGB", (8, 4)), "JPEG", exif=exif))

    assert (image.width, image.height) == (4, 8)


def test_a_small_file_that_unfolds_to_many_pixels_is_refused_before_it_does() -> None:
    bomb = saved(Image.new("1", (4000, 4000)), "PNG")

    assert len(bomb) < 5000
    with pytest.raises(InvalidRequestError, match="at most 10000 pixels, got 4000x4000"):
        decode(bomb)


def test_a_header_that_claims_the_sky_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )

    with pytest.raises(InvalidRequestError, match="a picture"):
        decode(data)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_not_tried(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match="a picture in PNG, JPEG, WEBP, GIF"):
        decode(saved(Image.new("RGB", (16, 16)), kind))


def test_half_a_picture_is_refused() -> None:
    whole = png(picture(1, 40, 40))

    with pytest.raises(InvalidRequestError, match="a picture that is whole"):
        decode(whole[: len(whole) // 2])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 300),
    st.binary(min_size=1, max_size=8),
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]),
)
def test_broken_bytes_are_a_picture_or_a_refusal(at: int, noise: bytes, kind: str) -> None:
    data = bytearray(png(picture(2, 12, 12), kind))
    data[at : at + len(noise)] = noise

    with suppress(InvalidRequestError):
        assert decode(bytes(data)).rgb
