"""Requests as the cache sees them: which blocks each of them will fill, and whose they are.

TensorRT-LLM's events name neither the request that caused them nor, in some
versions, the salt and never the LoRA adapter that a chain began with.  A track
knows its request's tokens and therefore the canonical hashes of its blocks, so
that a block is recognised by its content.  Pure; not safe for threads.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shepherd_events.block_hash import block_hash, media_between, salt_id
from shepherd_events.events import Attribution, BlockHash, CacheContext, MediaSpan
from shepherd_worker.request import FinishReason


@dataclass(slots=True, eq=False)
class Track:
    """One request, from before it is submitted until its end was told."""

    context: CacheContext
    root: BlockHash
    """Parent of its first block."""
    token_ids: array[int]
    """Prompt and output so far."""
    origin: Attribution | None
    started_unix_ns: int
    media: tuple[MediaSpan, ...] = ()
    """The images in its prompt, in order."""
    rank: int | None = 0
    """The attention rank that has its blocks; None until that is known."""
    num_prompt: int = field(init=False)
    num_cached: int = 0
    finish_reason: FinishReason | None = None
    """Set when nothing follows; its end is told when its blocks are."""
    shares_only: bool = False
    """Blocks that it would fill went although it has not ended: others had them."""
    num_told: int = 0
    """Leading blocks that were found told after its end."""
    _hashes: list[BlockHash] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_prompt = len(self.token_ids)

    def extend_hashes(self, block_size: int) -> list[BlockHash]:
        """Hash the blocks that have become full; the new hashes, in order."""
        first = len(self._hashes)
        for index in range(first, self.num_full_blocks(block_size)):
            parent = self._hashes[-1] if self._hashes else self.root
            start, stop = index * block_size, (index + 1) * block_size
            media = media_between(self.media, start, stop)
            self._hashes.append(block_hash(parent, self.token_ids[start:stop], media))
        return self._hashes[first:]

    def num_full_blocks(self, block_size: int) -> int:
        """Blocks whose every token was computed; the last token sampled never is."""
        num_computed = len(self.token_ids) - (len(self.token_ids) > self.num_prompt)
        return num_computed // block_size

    @property
    def tip(self) -> BlockHash:
        """The parent of its next block."""
        return self._hashes[-1] if self._hashes else self.root

    def may_fill(self, token_ids: array[int]) -> bool:
        """Whether its next block may have these tokens: the engine is ahead of what we were told."""
        known = self.token_ids[len(self._hashes) * len(token_ids) :]
        return token_ids[: len(known)] == known[: len(token_ids)]

    def has_text(self, token_ids: array[int], start: int) -> bool:
        """Whether these are its tokens from `start` on, where no image is."""
        spans = [range(each.offset, each.offset + each.length) for each in self.media]
        return all(
            self.token_ids[at] == token_id or any(at in span for span in spans)
            for at, token_id in enumerate(token_ids, start)
        )

    @property
    def hashes(self) -> list[BlockHash]:
        """Of the full blocks, as of the last `extend_hashes`."""
        return self._hashes


class TrackIndex:
    """The tracks that are under way, by the blocks that they will fill."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tracks: dict[Track, None] = {}
        self._by_hash: dict[int, list[Track]] = {}
        self._by_tip: dict[int, list[Track]] = {}

    def add(self, track: Track) -> None:
        """A request is about to be submitted."""
        self._tracks[track] = None
        self._by_tip.setdefault(track.tip, []).append(track)
        self._learn(track)

    def extend(self, track: Track, token_ids: Iterable[int]) -> None:
        """A request has more output."""
        track.token_ids.extend(token_ids)
        self._learn(track)

    def remove(self, track: Track) -> None:
        """A request's end was told."""
        del self._tracks[track]
        _drop(self._by_tip, track.tip, track)
        for value in track.hashes:
            _drop(self._by_hash, value, track)

    def sharing(self, value: int, rank: int) -> tuple[Track, ...]:
        """The tracks that have a block with this hash on this rank, the oldest first."""
        return tuple(_on(rank, self._by_hash.get(value, ())))

    def filling(self, value: int, parent: int, token_ids: array[int], rank: int) -> Track | None:
        """Who fills a rank's block, as far as can be told; `parent` is a root for a first block.

        A request that nobody else could be taken for is on that rank from then on.
        """
        fits = _on(rank, self._by_hash.get(value, ()))
        if not fits:
            growing = _on(rank, self._by_tip.get(parent, ()))
            fits = [track for track in growing if track.may_fill(token_ids)]
        if len(fits) == 1:
            fits[0].rank = rank
        return min(fits, key=lambda track: track.rank is None, default=None)

    def showing(
        self, parent: BlockHash | None, position: int, token_ids: array[int], rank: int
    ) -> list[Track]:
        """Who has images in the block at a place of a chain, and the same text around them.

        The engine writes tokens of its own for an image; `parent` is None at a chain's beginning.
        """
        start, size = position * self._block_size, self._block_size
        return [
            track
            for track in _on(rank, self._tracks)
            if position < len(track.hashes)
            and media_between(track.media, start, start + size)
            and parent in {None, track.hashes[position - 1] if position else track.root}
            and track.has_text(token_ids, start)
        ]

    def roots(self, cache_salt: str | None) -> Iterator[tuple[CacheContext, BlockHash]]:
        """What a chain may have begun with; a salt of None is one that was not told."""
        seen: set[BlockHash] = set()
        wanted = None if cache_salt is None else salt_id(cache_salt)
        for track in self._tracks:
            fits = wanted is None or track.context.cache_salt_id == wanted
            if fits and track.root not in seen:
                seen.add(track.root)
                yield track.context, track.root

    def __len__(self) -> int:
        return len(self._tracks)

    def _learn(self, track: Track) -> None:
        tip = track.tip
        for value in track.extend_hashes(self._block_size):
            self._by_hash.setdefault(value, []).append(track)
        if track.tip != tip:
            _drop(self._by_tip, tip, track)
            self._by_tip.setdefault(track.tip, []).append(track)


def _on(rank: int, tracks: Iterable[Track]) -> list[Track]:
    """Those that are on a rank, or may be."""
    return [track for track in tracks if track.rank is None or track.rank == rank]


def _drop(index: dict[int, list[Track]], key: int, track: Track) -> None:
    index[key].remove(track)
    if not index[key]:
        del index[key]
