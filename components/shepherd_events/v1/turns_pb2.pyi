from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CacheContext(_message.Message):
    __slots__ = ("lora_name", "cache_salt_id", "model")
    LORA_NAME_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    lora_name: str
    cache_salt_id: bytes
    model: str
    def __init__(self, lora_name: _Optional[str] = ..., cache_salt_id: _Optional[bytes] = ..., model: _Optional[str] = ...) -> None: ...

class Attribution(_message.Message):
    __slots__ = ("session_id", "request_id", "tenant", "turn")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: str
    tenant: str
    turn: int
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., turn: _Optional[int] = ...) -> None: ...

class SealedTokens(_message.Message):
    __slots__ = ("key_id", "nonce", "ciphertext")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    key_id: bytes
    nonce: bytes
    ciphertext: bytes
    def __init__(self, key_id: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...

class TurnCompleted(_message.Message):
    __slots__ = ("origin", "context", "parent_session_id", "session_final", "prompt_tokens", "cached_tokens", "generated_tokens", "last_block_hash", "num_full_blocks", "tail_token_id", "finish_reason", "started_unix_ns", "sealed_tail", "withheld", "traceparent", "turn_is_given")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    PARENT_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FINAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAST_BLOCK_HASH_FIELD_NUMBER: _ClassVar[int]
    NUM_FULL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TAIL_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SEALED_TAIL_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TURN_IS_GIVEN_FIELD_NUMBER: _ClassVar[int]
    origin: Attribution
    context: CacheContext
    parent_session_id: str
    session_final: bool
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    last_block_hash: int
    num_full_blocks: int
    tail_token_id: _containers.RepeatedScalarFieldContainer[int]
    finish_reason: str
    started_unix_ns: int
    sealed_tail: SealedTokens
    withheld: bool
    traceparent: str
    turn_is_given: bool
    def __init__(self, origin: _Optional[_Union[Attribution, _Mapping]] = ..., context: _Optional[_Union[CacheContext, _Mapping]] = ..., parent_session_id: _Optional[str] = ..., session_final: _Optional[bool] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., last_block_hash: _Optional[int] = ..., num_full_blocks: _Optional[int] = ..., tail_token_id: _Optional[_Iterable[int]] = ..., finish_reason: _Optional[str] = ..., started_unix_ns: _Optional[int] = ..., sealed_tail: _Optional[_Union[SealedTokens, _Mapping]] = ..., withheld: _Optional[bool] = ..., traceparent: _Optional[str] = ..., turn_is_given: _Optional[bool] = ...) -> None: ...
