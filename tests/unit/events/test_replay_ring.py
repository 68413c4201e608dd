from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.replay_ring import ReplayPage, ReplayRing


def ring_of(*payloads: bytes, capacity_bytes: int = 1000) -> ReplayRing:
    ring = ReplayRing(capacity_bytes)
    for seq, payload in enumerate(payloads, start=1):
        ring.append(seq, seq, payload)
    return ring


def test_a_page_brings_frames_from_the_wanted_one_on() -> None:
    ring = ring_of(b"a", b"b", b"c")

    assert ring.page(2, 100) == ReplayPage((b"b", b"c"), next_seq=4, head_seq=3)


def test_a_page_is_bounded_by_bytes_but_has_at_least_one_frame() -> None:
    ring = ring_of(b"aaaa", b"bbbb", b"cccc")

    assert ring.page(1, 8) == ReplayPage((b"aaaa", b"bbbb"), next_seq=3, head_seq=3)
    assert ring.page(1, 1) == ReplayPage((b"aaaa",), next_seq=2, head_seq=3)


def test_beyond_the_head_there_is_nothing_yet() -> None:
    assert ring_of(b"a").page(2, 100) == ReplayPage((), next_seq=2, head_seq=1)
    assert ring_of().page(1, 100) == ReplayPage((), next_seq=1, head_seq=0)


def test_the_oldest_frames_leave_when_the_bytes_do_not_fit() -> None:
    ring = ring_of(b"aaaa", b"bbbb", b"cccc", capacity_bytes=8)

    assert ring.first_available == 2
    assert ring.page(1, 100) is None
    assert ring.page(2, 100) == ReplayPage((b"bbbb", b"cccc"), 4, 3)


def test_a_frame_larger_than_the_ring_is_not_kept() -> None:
    ring = ring_of(b"a", b"too large", capacity_bytes=4)

    assert ring.first_available == 3
    assert ring.page(3, 100) == ReplayPage((), 3, 2)


def test_a_range_is_found_by_any_of_its_numbers() -> None:
    ring = ring_of(b"a")
    ring.append(2, 5, b"lost")
    ring.append(6, 6, b"b")

    for seq in (2, 3, 5):
        assert ring.page(seq, 100) == ReplayPage((b"lost", b"b"), 7, 6)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1),
    st.integers(1, 40),
    st.integers(1, 20),
)
def test_paging_brings_everything_that_is_kept_once_and_in_order(
    frames: list[tuple[int, int]], capacity_bytes: int, page_bytes: int
) -> None:
    ring = ReplayRing(capacity_bytes)
    last = 0
    kept: list[tuple[int, bytes]] = []
    for index, (span, size) in enumerate(frames):
        payload = bytes([index % 256]) * size
        ring.append(last + 1, last + span, payload)
        last += span
        kept.append((last, payload))
    while sum(len(payload) for _, payload in kept) > capacity_bytes:
        del kept[0]

    paged: list[bytes] = []
    next_seq = ring.first_available
    while next_seq <= last:
        page = ring.page(next_seq, page_bytes)
        assert page is not None
        assert page.frames
        paged.extend(page.frames)
        next_seq = page.next_seq

    assert paged == [payload for _, payload in kept]
    assert ring.first_available == (last + 1 if not kept else 1 + last - _span(frames, len(kept)))


def _span(frames: list[tuple[int, int]], count: int) -> int:
    return sum(span for span, _ in frames[-count:])
