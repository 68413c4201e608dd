"""What vLLM, SGLang and Dynamo say of a KV cache, as frozen dataclasses.

The three share one form and differ in details, which `dialects.py` knows;
`msgpack_form.py` alone knows the bytes.  Nothing here is believed yet: hashes
are opaque names that mean something within one run of one publisher only.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

ForeignHash = int | bytes
"""A name that the publisher gave a block: 0 .. 2**64 - 1, signed ones folded, or bytes."""

ExtraKey = str | int | bytes | tuple[str, int]
"""What else entered a block's hash: a name, or a medium with its offset from the block's start."""


@dataclass(frozen=True, slots=True)
class ForeignStored:
    """A run of blocks became matchable, each the parent of the next."""

    block_hashes: tuple[ForeignHash, ...]
    parent: ForeignHash | None
    """None at the root of a chain, and where the publisher does not say."""
    token_ids: array[int]
    """Empty where a block moved between tiers."""
    block_size: int
    medium: str | None = None
    lora_name: str = ""
    cache_salt: str = ""
    """Where it is told as such; vLLM hides it among `extra_keys`."""
    extra_keys: tuple[tuple[ExtraKey, ...], ...] = ()
    """Per block; empty where there are none at all."""
    group: int = 0
    kind: str | None = None
    """Of attention; None where the publisher does not say."""
    locality: str | None = None
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class ForeignRemoved:
    """Blocks are gone from a medium."""

    block_hashes: tuple[ForeignHash, ...]
    medium: str | None = None
    group: int = 0
    locality: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignCleared:
    """Every block is gone."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An event that makes no sense here."""

    problem: str
    may_remove: bool
    """False where not knowing it can only hide blocks that exist."""


ForeignEvent = ForeignStored | ForeignRemoved | ForeignCleared | Unreadable


@dataclass(frozen=True, slots=True)
class ForeignBatch:
    """One message."""

    ts_s: float
    events: tuple[ForeignEvent, ...]
    dp_rank: int | None
