"""What a cache of embeddings keeps, forgets and counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shepherd_worker.engine.embedding_cache import EmbeddingCache


def test_the_least_recently_used_goes_first() -> None:
    cache: EmbeddingCache[str] = EmbeddingCache(20)
    cache.put(b"a", "A", 10)
    cache.put(b"b", "B", 10)
    assert cache.get(b"a") == "A"

    cache.put(b"c", "C", 10)

    assert [cache.get(key) for key in (b"a", b"b", b"c")] == ["A", None, "C"]
    assert (cache.hits_total, cache.misses_total, cache.num_bytes) == (3, 1, 20)


def test_the_newest_stays_however_large_it_is() -> None:
    cache: EmbeddingCache[str] = EmbeddingCache(5)
    cache.put(b"a", "A", 3)
    cache.put(b"b", "B", 100)

    assert (cache.get(b"a"), cache.get(b"b"), len(cache)) == (None, "B", 1)
    cache.put(b"c", "C", 1)
    assert (cache.get(b"b"), cache.num_bytes) == (None, 1)


@given(
    st.integers(0, 40),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 20)), max_size=40),
)
def test_bytes_are_counted_and_bounded(capacity: int, puts: list[tuple[str, int]]) -> None:
    cache: EmbeddingCache[int] = EmbeddingCache(capacity)
    sizes: dict[str, int] = {}
    for key, size in puts:
        cache.put(key.encode(), size, size)
        sizes[key] = size

        kept = {k: s for k, s in sizes.items() if cache.get(k.encode()) is not None}
        assert cache.num_bytes == sum(kept.values())
        assert cache.num_bytes <= capacity or len(cache) == 1
        assert key in kept
        cache.get(key.encode())
