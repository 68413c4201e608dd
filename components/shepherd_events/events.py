"""What the KV event stream says, as frozen dataclasses.

`codec.py` alone knows their bytes.  Hashes are unsigned 64-bit integers and
never 0; columns are `array` objects, `"Q"` for hashes and `"I"` for token ids,
so that a frame is built and read without one Python object per token.
Whoever receives an event owns it but must not change its arrays.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType

BlockHash = NewType("BlockHash", int)
"""Content address of a full block, 1 .. 2**64 - 1; see `block_hash.py`."""


class Tier(IntEnum):
    """Where a block's KV lies; the numbers are those on the wire."""

    DEVICE = 1
    HOST = 2
    DISK = 3
    SHARED = 4
    REMOTE = 5

    __hash__ = int.__hash__
    """Not that of an `Enum`, which is written in Python."""


@dataclass(frozen=True, slots=True)
class StreamId:
    """One publisher's stream."""

    worker_id: str
    dp_rank: int = 0

    def __str__(self) -> str:
        return f"{self.worker_id}/{self.dp_rank}"


@dataclass(frozen=True, slots=True)
class StreamAddress:
    """Where one epoch of a stream can be read."""

    stream: StreamId
    epoch: int
    transport: str
    """"zmq" or "memory"."""
    live: str
    """Endpoint that sends each frame once, to whoever listens."""
    control: str
    """Endpoint that answers replay and snapshot requests."""


@dataclass(frozen=True, slots=True)
class CacheContext:
    """What a chain's root depends on, besides the model's fingerprint."""

    lora_name: str = ""
    cache_salt_id: bytes = b""
    """A keyed hash of the tenant's salt, never the salt."""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The request that caused an event; not the owner of a shared block."""

    request_id: str
    session_id: str = ""
    """Empty for an anonymous request."""
    tenant: str = ""
    turn: int = 0
    """Ordinal in the session, from 1; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """Consecutive tokens of a sequence that stand for one image, not for text."""

    digest: bytes
    """Content address of what the tokens stand for."""
    offset: int
    """The first of them, from the sequence's start."""
    length: int
    """Tokens, at least 1."""
    modality: str = "image"


@dataclass(frozen=True, slots=True)
class MediaKey:
    """Media that entered the hash of one block; a block may have several."""

    block_index: int
    """The block, from the start of its run."""
    span: MediaSpan


@dataclass(frozen=True, slots=True)
class SealedTokens:
    """Tokens that only a tenant's key opens; see `tenant_keys.py`."""

    key_id: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """A run of one chain became matchable on `tier`, each block the parent of the next."""

    block_hashes: array[int]
    parent_hash: BlockHash | None
    """The block before the first one; None at the root of a chain."""
    token_ids: array[int]
    """`len(block_hashes) * block_size` ids, or none at all in a hash-only run."""
    start_block: int
    """Position of the first block in its sequence, from 0."""
    tier: Tier = Tier.DEVICE
    context: CacheContext = CacheContext()
    origin: Attribution | None = None
    group: int = 0
    media: tuple[MediaKey, ...] = ()
    """In the order of the blocks; empty for text."""
    sealed: SealedTokens | None = None
    """The tokens where `token_ids` has none, for who has the key."""


@dataclass(frozen=True, slots=True)
class BlocksReused:
    """A request hit blocks that were stored before; says nothing new about what is resident."""

    block_hashes: array[int]
    parent_hash: BlockHash | None
    start_block: int
    tier: Tier = Tier.DEVICE
    context: CacheContext = CacheContext()
    origin: Attribution | None = None
    group: int = 0


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """The last copy of each hash on `tier` is gone; the hashes need not be one chain."""

    block_hashes: array[int]
    tier: Tier = Tier.DEVICE
    origin: Attribution | None = None
    group: int = 0


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """Every block on `tier` is gone; None means every tier."""

    tier: Tier | None = None


BlockEvent = BlocksStored | BlocksReused | BlocksRemoved | BlocksCleared


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """Block events in the order in which the cache changed, applied as one."""

    events: tuple[BlockEvent, ...]


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """A request ended; its tokens are the chain up to `last_block_hash`, then `tail_token_ids`.

    Follows every STORED of the chain and precedes every REMOVED of it.
    """

    origin: Attribution
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose KV was found and not computed."""
    generated_tokens: int
    last_block_hash: BlockHash | None
    num_full_blocks: int
    tail_token_ids: array[int]
    """The tokens that no full block holds."""
    finish_reason: str
    started_unix_ns: int
    context: CacheContext = CacheContext()
    parent_session_id: str = ""
    session_final: bool = False
    sealed_tail: SealedTokens | None = None
    """The tokens where `tail_token_ids` has none, for who has the key."""
    withheld: bool = False
    """The tokens of this turn cannot be had, at least not by this reader."""
    traceparent: str = ""
    """W3C trace context of the span that answered the request; empty without one."""
    turn_is_given: bool = False
    """The request says itself which turn it is (`origin.turn`), since its prompt leaves out earlier
    ones; else that is the number of user messages in its prompt."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Turns of a session left the cache and are in long-term memory now."""

    notice_id: str
    tenant: str
    session_id: str
    turns: tuple[int, ...]
    archive_ids: tuple[str, ...]
    topic: str
    text: str
    """The sentence for the model."""
    created_unix_ns: int


@dataclass(frozen=True, slots=True)
class TierState:
    """Number and order-free digest of the blocks resident on one tier."""

    tier: Tier
    blocks: int
    xor: int
    """Exclusive or of the resident hashes, 0 when there is none."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The publisher lives, and this is where its stream stands; reserves no sequence number."""

    head_seq: int
    first_available: int
    """The oldest frame that a replay can still bring."""
    tiers: tuple[TierState, ...] = ()
    dropped_total: int = 0
    control: str = ""
    """Endpoint of replays and snapshots, for who knows the live one alone; empty where unsaid."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The first frame of an epoch: what the numbers after it mean."""

    model: str
    block_size: int
    hash_algo: str
    hash_seed_id: bytes = b""
    """The root hash without LoRA and salt: equal streams hash equally."""
    dp_size: int = 1
    replay_capacity: int = 0
    """Bytes of frames kept for replay."""
    replay_endpoint: str = ""
    tiers: tuple[Tier, ...] = (Tier.DEVICE,)
    tokens_included: bool = True
    previous_epoch: int = 0
    previous_head_seq: int = 0
    heartbeat_ms: int = 1000
    engine: str = ""
    engine_version: str = ""
    schema_minor: int = 0
    privacy: str = "full"
    """A value of `Privacy`."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The publisher dropped frames [from_seq, to_seq]; no replay will bring them."""

    from_seq: int
    to_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last frame of an orderly shutdown."""

    reason: str


Body = BlockBatch | TurnCompleted | Notice | Heartbeat | StreamInfo | Tombstone | Goodbye


@dataclass(frozen=True, slots=True)
class Frame:
    """One numbered message of a stream."""

    stream: StreamId
    epoch: int
    seq: int
    ts_unix_ns: int
    body: Body
    required_features: int = 0
    checksum: int | None = field(default=None, compare=False)
    """What it arrived with, and matched; None before it is written, or where its writer has none."""
