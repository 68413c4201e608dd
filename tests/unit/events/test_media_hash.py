"""Images in the block hash: the same text with another image is another block."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.block_hash import block_hash, block_hashes, media_between, root_hash
from shepherd_events.events import BlockHash, MediaSpan

ROOT = root_hash(b"model")
TOKENS = array("I", [1, 2, 9, 9, 9, 9, 9, 3, 4, 5, 6, 7])
CAT, DOG = b"cat", b"dog"
GOLDEN_TEXT = ["0d3cf1cb32ae7e40", "9b984398b0339931", "c9a82353e20536bb"]
GOLDEN_IMAGE = ["23f2bd4dcac0566b", "3269c213c67f0b84", "2615410a36d27687"]

spans = st.builds(
    MediaSpan,
    digest=st.binary(min_size=1, max_size=3),
    offset=st.integers(0, 30),
    length=st.integers(1, 9),
)


def hashes(*media: MediaSpan) -> list[BlockHash]:
    return list(block_hashes(ROOT, TOKENS, 4, media))


def test_hashes_of_version_1_stay_for_ever() -> None:
    assert [f"{value:016x}" for value in hashes()] == GOLDEN_TEXT
    assert [f"{value:016x}" for value in hashes(MediaSpan(CAT, 2, 5))] == GOLDEN_IMAGE


def test_another_image_is_another_chain_from_the_first_block_that_it_touches() -> None:
    cat, dog = hashes(MediaSpan(CAT, 5, 2)), hashes(MediaSpan(DOG, 5, 2))

    assert cat[0] == dog[0] == hashes()[0]
    assert cat[1] != dog[1] != hashes()[1]
    assert cat[2] != dog[2]


def test_the_same_image_elsewhere_or_of_another_size_is_another_block() -> None:
    seen = {tuple(hashes(MediaSpan(CAT, offset, length))) for offset in (2, 3) for length in (3, 4)}

    assert len(seen) == 4


def test_two_images_are_not_one_whose_digest_joins_theirs() -> None:
    two = block_hash(ROOT, TOKENS[:4], (MediaSpan(b"a", 0, 1), MediaSpan(b"b", 1, 1)))
    one = block_hash(ROOT, TOKENS[:4], (MediaSpan(b"ab", 0, 1),))

    assert one != two


def test_another_tenant_s_image_is_another_block() -> None:
    salted = root_hash(b"model", cache_salt="tenant")

    assert not set(block_hashes(salted, TOKENS, 4, (MediaSpan(CAT, 2, 5),))) & set(
        hashes(MediaSpan(CAT, 2, 5))
    )


@given(st.lists(spans, max_size=4), st.integers(0, 30), st.integers(1, 9))
def test_a_span_reaches_into_a_block_where_they_share_a_token(
    media: list[MediaSpan], start: int, length: int
) -> None:
    block = set(range(start, start + length))

    found = media_between(media, start, start + length)

    assert list(found) == [s for s in media if block & set(range(s.offset, s.offset + s.length))]
