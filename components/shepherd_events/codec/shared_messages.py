"""Messages that occur inside others: contexts, attributions, media, digests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shepherd_events.codec.wire import enum_of
from shepherd_events.events import (
    Attribution,
    CacheContext,
    MediaKey,
    MediaSpan,
    SealedTokens,
    Tier,
    TierState,
)
from shepherd_events.v1 import kv_events_pb2 as pb
from shepherd_events.v1 import turns_pb2


def context_message(context: CacheContext) -> turns_pb2.CacheContext:
    """As a message."""
    return turns_pb2.CacheContext(
        lora_name=context.lora_name, cache_salt_id=context.cache_salt_id, model=context.model
    )


def context_of(message: Any) -> CacheContext:
    """From its message."""
    return CacheContext(message.lora_name, message.cache_salt_id, message.model)


def attribution_message(origin: Attribution) -> turns_pb2.Attribution:
    """As a message."""
    return turns_pb2.Attribution(
        session_id=origin.session_id,
        request_id=origin.request_id,
        tenant=origin.tenant,
        turn=origin.turn,
    )


def attribution_of(message: Any) -> Attribution:
    """From its message."""
    return Attribution(message.request_id, message.session_id, message.tenant, message.turn)


def sealed_message(sealed: SealedTokens | None) -> turns_pb2.SealedTokens | None:
    """As a message."""
    if sealed is None:
        return None
    return turns_pb2.SealedTokens(
        key_id=sealed.key_id, nonce=sealed.nonce, ciphertext=sealed.ciphertext
    )


def sealed_of(message: Any) -> SealedTokens:
    """From its message."""
    return SealedTokens(message.key_id, message.nonce, message.ciphertext)


def media_key_message(key: MediaKey) -> pb.MmKey:
    """As a message."""
    span = key.span
    return pb.MmKey(
        block_index=key.block_index,
        mm_hash=span.digest,
        offset=span.offset,
        length=span.length,
        modality=span.modality,
    )


def media_key_of(message: Any) -> MediaKey:
    """From its message."""
    span = MediaSpan(message.mm_hash, message.offset, message.length, message.modality)
    return MediaKey(message.block_index, span)


def tier_state_messages(states: Iterable[TierState]) -> list[pb.TierState]:
    """As messages; the upper half of the digest stays 0 with 64-bit hashes."""
    return [
        pb.TierState(tier=f"TIER_{state.tier.name}", blocks=state.blocks, xor_lo=state.xor)
        for state in states
    ]


def tier_states(field: str, messages: Iterable[Any]) -> tuple[TierState, ...]:
    """From their messages.

    Raises:
        CodecError: a tier that is not known.
    """
    return tuple(
        TierState(enum_of(f"{field}.tier", Tier, message.tier), message.blocks, message.xor_lo)
        for message in messages
    )
