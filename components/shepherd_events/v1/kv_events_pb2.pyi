from shepherd_events.v1 import notices_pb2 as _notices_pb2
from shepherd_events.v1 import turns_pb2 as _turns_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_DEVICE: _ClassVar[Tier]
    TIER_HOST: _ClassVar[Tier]
    TIER_DISK: _ClassVar[Tier]
    TIER_SHARED: _ClassVar[Tier]
    TIER_REMOTE: _ClassVar[Tier]

class Op(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OP_UNSPECIFIED: _ClassVar[Op]
    OP_STORED: _ClassVar[Op]
    OP_REMOVED: _ClassVar[Op]
    OP_CLEARED: _ClassVar[Op]
    OP_REUSED: _ClassVar[Op]

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_OK: _ClassVar[Status]
    STATUS_COMPACTED: _ClassVar[Status]
    STATUS_WRONG_EPOCH: _ClassVar[Status]
    STATUS_AHEAD: _ClassVar[Status]
    STATUS_BUSY: _ClassVar[Status]
    STATUS_DENIED: _ClassVar[Status]
    STATUS_UNSUPPORTED: _ClassVar[Status]
TIER_UNSPECIFIED: Tier
TIER_DEVICE: Tier
TIER_HOST: Tier
TIER_DISK: Tier
TIER_SHARED: Tier
TIER_REMOTE: Tier
OP_UNSPECIFIED: Op
OP_STORED: Op
OP_REMOVED: Op
OP_CLEARED: Op
OP_REUSED: Op
STATUS_UNSPECIFIED: Status
STATUS_OK: Status
STATUS_COMPACTED: Status
STATUS_WRONG_EPOCH: Status
STATUS_AHEAD: Status
STATUS_BUSY: Status
STATUS_DENIED: Status
STATUS_UNSUPPORTED: Status

class Frame(_message.Message):
    __slots__ = ("worker_id", "dp_rank", "epoch", "seq", "ts_unix_ns", "required_features", "blocks", "heartbeat", "info", "lost", "goodbye", "turn", "notice", "checksum")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TS_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    dp_rank: int
    epoch: int
    seq: int
    ts_unix_ns: int
    required_features: int
    blocks: BlockBatch
    heartbeat: Heartbeat
    info: StreamInfo
    lost: Tombstone
    goodbye: Goodbye
    turn: _turns_pb2.TurnCompleted
    notice: _notices_pb2.Notice
    checksum: int
    def __init__(self, worker_id: _Optional[str] = ..., dp_rank: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., ts_unix_ns: _Optional[int] = ..., required_features: _Optional[int] = ..., blocks: _Optional[_Union[BlockBatch, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., info: _Optional[_Union[StreamInfo, _Mapping]] = ..., lost: _Optional[_Union[Tombstone, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., turn: _Optional[_Union[_turns_pb2.TurnCompleted, _Mapping]] = ..., notice: _Optional[_Union[_notices_pb2.Notice, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class BlockBatch(_message.Message):
    __slots__ = ("op", "run_len", "tier", "parent_hash", "block_hash", "token_id", "run_tokens", "start_block", "context", "attribution", "group", "contexts", "attributions", "mm_keys", "block_hash_hi", "sealed")
    OP_FIELD_NUMBER: _ClassVar[int]
    RUN_LEN_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    PARENT_HASH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    START_BLOCK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    MM_KEYS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_HASH_HI_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    op: _containers.RepeatedScalarFieldContainer[int]
    run_len: _containers.RepeatedScalarFieldContainer[int]
    tier: _containers.RepeatedScalarFieldContainer[int]
    parent_hash: _containers.RepeatedScalarFieldContainer[int]
    block_hash: _containers.RepeatedScalarFieldContainer[int]
    token_id: _containers.RepeatedScalarFieldContainer[int]
    run_tokens: _containers.RepeatedScalarFieldContainer[int]
    start_block: _containers.RepeatedScalarFieldContainer[int]
    context: _containers.RepeatedScalarFieldContainer[int]
    attribution: _containers.RepeatedScalarFieldContainer[int]
    group: _containers.RepeatedScalarFieldContainer[int]
    contexts: _containers.RepeatedCompositeFieldContainer[_turns_pb2.CacheContext]
    attributions: _containers.RepeatedCompositeFieldContainer[_turns_pb2.Attribution]
    mm_keys: _containers.RepeatedCompositeFieldContainer[MmKey]
    block_hash_hi: _containers.RepeatedScalarFieldContainer[int]
    sealed: _containers.RepeatedCompositeFieldContainer[SealedRun]
    def __init__(self, op: _Optional[_Iterable[int]] = ..., run_len: _Optional[_Iterable[int]] = ..., tier: _Optional[_Iterable[int]] = ..., parent_hash: _Optional[_Iterable[int]] = ..., block_hash: _Optional[_Iterable[int]] = ..., token_id: _Optional[_Iterable[int]] = ..., run_tokens: _Optional[_Iterable[int]] = ..., start_block: _Optional[_Iterable[int]] = ..., context: _Optional[_Iterable[int]] = ..., attribution: _Optional[_Iterable[int]] = ..., group: _Optional[_Iterable[int]] = ..., contexts: _Optional[_Iterable[_Union[_turns_pb2.CacheContext, _Mapping]]] = ..., attributions: _Optional[_Iterable[_Union[_turns_pb2.Attribution, _Mapping]]] = ..., mm_keys: _Optional[_Iterable[_Union[MmKey, _Mapping]]] = ..., block_hash_hi: _Optional[_Iterable[int]] = ..., sealed: _Optional[_Iterable[_Union[SealedRun, _Mapping]]] = ...) -> None: ...

class SealedRun(_message.Message):
    __slots__ = ("run", "tokens")
    RUN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    run: int
    tokens: _turns_pb2.SealedTokens
    def __init__(self, run: _Optional[int] = ..., tokens: _Optional[_Union[_turns_pb2.SealedTokens, _Mapping]] = ...) -> None: ...

class MmKey(_message.Message):
    __slots__ = ("block_index", "mm_hash", "offset", "length", "modality")
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    MM_HASH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    block_index: int
    mm_hash: bytes
    offset: int
    length: int
    modality: str
    def __init__(self, block_index: _Optional[int] = ..., mm_hash: _Optional[bytes] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., modality: _Optional[str] = ...) -> None: ...

class TierState(_message.Message):
    __slots__ = ("tier", "blocks", "xor_lo", "xor_hi")
    TIER_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    XOR_LO_FIELD_NUMBER: _ClassVar[int]
    XOR_HI_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    blocks: int
    xor_lo: int
    xor_hi: int
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., blocks: _Optional[int] = ..., xor_lo: _Optional[int] = ..., xor_hi: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("head_seq", "first_available", "tiers", "dropped_total", "control_endpoint")
    HEAD_SEQ_FIELD_NUMBER: _ClassVar[int]
    FIRST_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    head_seq: int
    first_available: int
    tiers: _containers.RepeatedCompositeFieldContainer[TierState]
    dropped_total: int
    control_endpoint: str
    def __init__(self, head_seq: _Optional[int] = ..., first_available: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[TierState, _Mapping]]] = ..., dropped_total: _Optional[int] = ..., control_endpoint: _Optional[str] = ...) -> None: ...

class StreamInfo(_message.Message):
    __slots__ = ("schema_minor", "model", "block_size", "hash_algo", "hash_seed_id", "dp_size", "replay_capacity", "replay_endpoint", "tiers", "tokens_included", "previous_epoch", "previous_head_seq", "heartbeat_ms", "engine", "engine_version", "groups", "privacy")
    SCHEMA_MINOR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    HASH_ALGO_FIELD_NUMBER: _ClassVar[int]
    HASH_SEED_ID_FIELD_NUMBER: _ClassVar[int]
    DP_SIZE_FIELD_NUMBER: _ClassVar[int]
    REPLAY_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    REPLAY_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_INCLUDED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_EPOCH_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HEAD_SEQ_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    schema_minor: int
    model: str
    block_size: int
    hash_algo: str
    hash_seed_id: bytes
    dp_size: int
    replay_capacity: int
    replay_endpoint: str
    tiers: _containers.RepeatedScalarFieldContainer[Tier]
    tokens_included: bool
    previous_epoch: int
    previous_head_seq: int
    heartbeat_ms: int
    engine: str
    engine_version: str
    groups: _containers.RepeatedCompositeFieldContainer[GroupInfo]
    privacy: str
    def __init__(self, schema_minor: _Optional[int] = ..., model: _Optional[str] = ..., block_size: _Optional[int] = ..., hash_algo: _Optional[str] = ..., hash_seed_id: _Optional[bytes] = ..., dp_size: _Optional[int] = ..., replay_capacity: _Optional[int] = ..., replay_endpoint: _Optional[str] = ..., tiers: _Optional[_Iterable[_Union[Tier, str]]] = ..., tokens_included: _Optional[bool] = ..., previous_epoch: _Optional[int] = ..., previous_head_seq: _Optional[int] = ..., heartbeat_ms: _Optional[int] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[GroupInfo, _Mapping]]] = ..., privacy: _Optional[str] = ...) -> None: ...

class GroupInfo(_message.Message):
    __slots__ = ("group", "kind", "block_size", "sliding_window")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    SLIDING_WINDOW_FIELD_NUMBER: _ClassVar[int]
    group: int
    kind: str
    block_size: int
    sliding_window: int
    def __init__(self, group: _Optional[int] = ..., kind: _Optional[str] = ..., block_size: _Optional[int] = ..., sliding_window: _Optional[int] = ...) -> None: ...

class Tombstone(_message.Message):
    __slots__ = ("from_seq", "to_seq", "reason")
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    TO_SEQ_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    from_seq: int
    to_seq: int
    reason: str
    def __init__(self, from_seq: _Optional[int] = ..., to_seq: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("replay", "snapshot")
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    replay: ReplayRequest
    snapshot: SnapshotRequest
    def __init__(self, replay: _Optional[_Union[ReplayRequest, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotRequest, _Mapping]] = ...) -> None: ...

class ControlReply(_message.Message):
    __slots__ = ("replay", "snapshot", "checksum")
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    replay: ReplayReply
    snapshot: SnapshotReply
    checksum: int
    def __init__(self, replay: _Optional[_Union[ReplayReply, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotReply, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ("worker_id", "dp_rank", "epoch", "from_seq", "max_bytes")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    dp_rank: int
    epoch: int
    from_seq: int
    max_bytes: int
    def __init__(self, worker_id: _Optional[str] = ..., dp_rank: _Optional[int] = ..., epoch: _Optional[int] = ..., from_seq: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ReplayReply(_message.Message):
    __slots__ = ("status", "epoch", "first_available", "next_seq", "head_seq", "retry_after_ms", "frames")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    HEAD_SEQ_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    status: Status
    epoch: int
    first_available: int
    next_seq: int
    head_seq: int
    retry_after_ms: int
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., epoch: _Optional[int] = ..., first_available: _Optional[int] = ..., next_seq: _Optional[int] = ..., head_seq: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., frames: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("worker_id", "dp_rank", "snapshot_id", "chunk", "max_bytes", "tiers", "hashes_only")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    DP_RANK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    HASHES_ONLY_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    dp_rank: int
    snapshot_id: bytes
    chunk: int
    max_bytes: int
    tiers: _containers.RepeatedScalarFieldContainer[Tier]
    hashes_only: bool
    def __init__(self, worker_id: _Optional[str] = ..., dp_rank: _Optional[int] = ..., snapshot_id: _Optional[bytes] = ..., chunk: _Optional[int] = ..., max_bytes: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[Tier, str]]] = ..., hashes_only: _Optional[bool] = ...) -> None: ...

class SnapshotReply(_message.Message):
    __slots__ = ("status", "epoch", "snapshot_id", "as_of_seq", "chunk", "last", "blocks", "tiers")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_SEQ_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    status: Status
    epoch: int
    snapshot_id: bytes
    as_of_seq: int
    chunk: int
    last: bool
    blocks: BlockBatch
    tiers: _containers.RepeatedCompositeFieldContainer[TierState]
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., epoch: _Optional[int] = ..., snapshot_id: _Optional[bytes] = ..., as_of_seq: _Optional[int] = ..., chunk: _Optional[int] = ..., last: _Optional[bool] = ..., blocks: _Optional[_Union[BlockBatch, _Mapping]] = ..., tiers: _Optional[_Iterable[_Union[TierState, _Mapping]]] = ...) -> None: ...
