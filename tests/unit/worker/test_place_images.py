"""Where images stand in a prompt."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.image import Array, PreparedImage, pixel_digest, place_images

PLACEHOLDER = 9
lengths = st.lists(st.integers(1, 5), max_size=4)
texts = st.lists(st.integers(0, 8), max_size=6)


def image(num_tokens: int) -> PreparedImage:
    return PreparedImage(digest=bytes([num_tokens]), num_tokens=num_tokens)


def test_a_placeholder_becomes_as_many_as_the_image_has_tokens() -> None:
    prompt = array("I", [1, 9, 2, 9, 9, 3])

    expanded, placed = place_images(prompt, [image(3), image(1), image(2)], PLACEHOLDER)

    assert expanded.tolist() == [1, 9, 9, 9, 2, 9, 9, 9, 3]
    assert [(each.offset, each.stop) for each in placed] == [(1, 4), (5, 6), (6, 8)]
    assert [each.span.digest for each in placed] == [b"\x03", b"\x01", b"\x02"]


@given(st.data(), lengths)
def test_the_text_stays_and_every_placeholder_has_its_image(
    data: st.DataObject, lengths: list[int]
) -> None:
    parts = [data.draw(texts) for _ in range(len(lengths) + 1)]
    prompt = array("I", parts[0])
    for part in parts[1:]:
        prompt += array("I", [PLACEHOLDER, *part])

    expanded, placed = place_images(prompt, [image(n) for n in lengths], PLACEHOLDER)

    covered = {at for each in placed for at in range(each.offset, each.stop)}
    assert covered == {at for at, token in enumerate(expanded) if token == PLACEHOLDER}
    assert len(covered) == sum(lengths)
    assert [t for t in expanded if t != PLACEHOLDER] == [t for part in parts for t in part]


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_another_number_of_images_than_of_placeholders_is_refused(num_images: int) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        place_images(array("I", [1, 9, 9]), [image(2)] * num_images, PLACEHOLDER)

    assert raised.value.field == "image_url"
    assert "placeholders (token 9): 2" in str(raised.value)


def test_the_digest_is_of_values_shape_type_and_name() -> None:
    values = Array("uint8", (2, 3), b"abcdef")
    others = [
        {"a": Array("uint8", (2, 3), b"abcdeg")},
        {"a": Array("uint8", (3, 2), b"abcdef")},
        {"a": Array("int8", (2, 3), b"abcdef")},
        {"b": values},
        {"a": values, "b": values},
    ]

    digests = {pixel_digest({"a": values}), *map(pixel_digest, others)}

    assert len(digests) == len(others) + 1
    assert pixel_digest({"a": values, "b": values}) == pixel_digest({"b": values, "a": values})
