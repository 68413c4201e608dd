"""One request's tokens on their way through the engine.

Knows its tokens, which of them have their KV in the cache and in which blocks,
and the chained hashes of its full blocks.  Knows neither tensors nor the other
sequences; `scheduler.py` alone moves it.

    0            num_computed          len(token_ids)
    |--- KV in blocks ---|--- to be computed ---|
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random

from shepherd_events.block_hash import block_hash, media_between
from shepherd_events.events import (
    BlockHash,
    BlocksReused,
    BlocksStored,
    CacheContext,
    MediaKey,
    MediaSpan,
    Tier,
)
from shepherd_worker.engine.embedded.cache.retention import BlockRetention, block_retention
from shepherd_worker.engine.embedded.sampling.speculative import NgramDrafter
from shepherd_worker.engine.embedded.sampling.steering import Guide, Processors
from shepherd_worker.request import FinishReason, GenerateRequest


@dataclass(frozen=True, slots=True)
class ImportedBlocks:
    """KV that another worker computed, or this one before, waiting in host memory."""

    first_block: int
    payloads: ReadOnlyList[bytes | memoryview]
    """One record per block, each of the runner's block size in bytes."""
    from_store: bool = False
    """Whether the KV store gave them, rather than a prefill worker."""


@dataclass(slots=True, eq=False)
class Sequence:
    """See the module's docstring; owned by the engine's thread once it is submitted."""

    request: GenerateRequest
    root: BlockHash
    """Parent of the first block."""
    context: CacheContext
    eos_token_ids: frozenset[int]
    max_tokens: int
    """Output tokens at most; fits the context."""
    started_unix_ns: int
    random: Random
    """Draws one number per sampled token, so that a seed means the same in every batch."""
    prefill_only: bool = False
    """Ends after one token and keeps the prompt's full blocks until `Scheduler.release`."""
    imported: ImportedBlocks | None = None
    drafter: NgramDrafter | None = None
    """Guesses at the next tokens; None computes one token at a time."""
    guide: Guide | None = None
    """Keeps the answer within a grammar."""
    processors: Processors | None = None
    """Change the logits."""
    token_ids: array[int] = field(init=False)
    """Prompt and output."""
    media: tuple[MediaSpan, ...] = field(init=False)
    """The prompt's tokens that stand for images."""
    block_ids: list[int] = field(default_factory=list)
    """The block table: where the KV of each run of `block_size` tokens lies."""
    num_computed: int = 0
    """Tokens whose KV is in the cache."""
    num_cached: int | None = None
    """Prompt tokens found in the cache at the first admission; None before it."""
    num_cached_on_host: int = 0
    """Those of them that were found on the host tier."""
    num_transferred: int = 0
    """Prompt tokens whose KV came from a prefill worker."""
    num_loaded: int = 0
    """Prompt tokens whose KV came from the KV store."""
    finish_reason: FinishReason | None = None
    _hashes: list[BlockHash] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids = array("I", self.request.token_ids)
        self.media = tuple(image.span for image in self.request.images)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.token_ids)

    @property
    def num_reused(self) -> int:
        """Prompt tokens that are billed as cached."""
        return (self.num_cached or 0) + self.num_loaded

    @property
    def num_output(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose KV is missing; 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is the likeliest one, and nothing else is asked of it."""
        request = self.request
        return request.sampling.greedy and request.logprobs is None and not self.adjusts()

    def adjusts(self, num_ahead: int = 0) -> bool:
        """Whether the logits of the token that comes `num_ahead` tokens from here are changed."""
        return (
            self.request.sampling.penalised
            or self.guide is not None
            or self.processors is not None
            or self.num_output + num_ahead < self.request.stops.min_tokens
        )

    @property
    def ending_token_ids(self) -> frozenset[int]:
        """Tokens that end the sequence once it has its minimum; a grammar ends with one, too."""
        stops = self.request.stops
        ignored = stops.ignore_eos and self.guide is None
        return stops.stop_token_ids if ignored else stops.stop_token_ids | self.eos_token_ids

    def suppressed_token_ids(self, num_ahead: int = 0) -> frozenset[int]:
        """Tokens that may not be sampled `num_ahead` tokens from here: they would end it too early."""
        if self.num_output + num_ahead >= self.request.stops.min_tokens:
            return frozenset()
        return self.ending_token_ids

    def draft(self, limit: int) -> tuple[int, ...]:
        """Up to `limit` guesses at the next tokens, none of which would end the sequence."""
        if self.drafter is None:
            return ()
        room = self.max_tokens - self.num_output - 1
        guesses = self.drafter.propose(self.token_ids, min(limit, room))
        ends = self.ending_token_ids
        return tuple(takewhile(lambda token: token not in ends, guesses))

    def hashes(self, num_blocks: int, block_size: int) -> list[BlockHash]:
        """Hashes of the first `num_blocks` full blocks."""
        while len(self._hashes) < num_blocks:
            start = len(self._hashes) * block_size
            stop = start + block_size
            parent = self._hashes[-1] if self._hashes else self.root
            media = media_between(self.media, start, stop)
            self._hashes.append(block_hash(parent, self.token_ids[start:stop], media))
        return self._hashes[:num_blocks]

    def stored_run(self, start: int, stop: int, block_size: int) -> BlocksStored:
        """What to say when blocks [start, stop) became full."""
        hashes = self.hashes(stop, block_size)
        return BlocksStored(
            block_hashes=array("Q", hashes[start:]),
            parent_hash=hashes[start - 1] if start else None,
            token_ids=self.token_ids[start * block_size : stop * block_size],
            start_block=start,
            context=self.context,
            origin=self.request.origin,
            media=self._media_keys(start, stop, block_size),
        )

    def reused_run(self, start: int, stop: int, block_size: int, tier: Tier) -> BlocksReused:
        """What to say when blocks [start, stop) were found on a tier."""
        hashes = self.hashes(stop, block_size)
        return BlocksReused(
            block_hashes=array("Q", hashes[start:]),
            parent_hash=hashes[start - 1] if start else None,
            start_block=start,
            tier=tier,
            context=self.context,
            origin=self.request.origin,
        )

    def retentions(self, start: int, stop: int, block_size: int) -> list[BlockRetention | None]:
        """What the request says of blocks [start, stop); None where it says nothing."""
        retention = self.request.retention
        if retention is None:
            return [None] * (stop - start)
        return [
            block_retention(retention, self.num_prompt, at * block_size, (at + 1) * block_size)
            for at in range(start, stop)
        ]

    def _media_keys(self, start: int, stop: int, block_size: int) -> tuple[MediaKey, ...]:
        """The media of each of the blocks [start, stop)."""
        if not self.media:
            return ()
        return tuple(
            MediaKey(block - start, span)
            for block in range(start, stop)
            for span in media_between(self.media, block * block_size, (block + 1) * block_size)
        )

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.request.request_id}: {self.num_prompt}+{self.num_output} tokens, "
            f"{self.num_computed} computed, {len(self.block_ids)} blocks>"
        )
