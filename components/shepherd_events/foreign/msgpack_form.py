"""Foreign batches as msgpack, both ways.

Reading believes nothing: a payload that is no batch is a `CodecError`, an event
that makes no sense is `Unreadable` among the others, and fields that are not
known are left alone, as every reader of this form does.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

import msgspec

from shepherd_events.errors import CodecError
from shepherd_events.foreign.dialects import Dialect
from shepherd_events.foreign.events import (
    ExtraKey,
    ForeignBatch,
    ForeignCleared,
    ForeignEvent,
    ForeignHash,
    ForeignRemoved,
    ForeignStored,
    Unreadable,
)

MAX_PAYLOAD_BYTES = 64 << 20
_MAX_GROUP = 63
_MAX_RANK = 4095
_WORD = 1 << 64
_HARMLESS = frozenset({"Ignored"})
"""Kinds of events that change no cache."""


def decode_batch(
    payload: bytes, dialect: Dialect, harmless: frozenset[str] = frozenset()
) -> ForeignBatch:
    """The batch that a payload holds; `harmless` are kinds of events that may be skipped.

    Raises:
        CodecError: it holds none.
    """
    try:
        batch = msgspec.msgpack.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CodecError("batch", f"no msgpack: {error}") from error
    match batch:
        case [int() | float() as ts_s, [*events], *rest]:
            rank = rest[0] if rest else None
        case _:
            raise CodecError("batch", "expected [time, events, rank]")
    if rank is not None and not (isinstance(rank, int) and 0 <= rank <= _MAX_RANK):
        raise CodecError("batch.rank", f"{rank!r}: expected 0 .. {_MAX_RANK}")
    read = (_event(event, dialect) for event in events if _kind(event) not in _HARMLESS | harmless)
    return ForeignBatch(float(ts_s), tuple(read), rank)


def encode_batch(ts_s: float, events: Sequence[Mapping[str, Any]], dp_rank: int) -> bytes:
    """A batch of events as maps, in the order of their fields."""
    return msgspec.msgpack.encode([ts_s, events, dp_rank])


def _kind(event: Any) -> Any:
    match event:
        case {"type": str() as kind} | [str() as kind, *_]:
            return kind
        case _:
            return None


def _event(event: Any, dialect: Dialect) -> ForeignEvent:
    kind = _kind(event)
    try:
        match kind:
            case "BlockStored":
                return _stored(_fields(event, dialect.stored))
            case "BlockRemoved":
                return _removed(_fields(event, dialect.removed))
            case "AllBlocksCleared":
                return ForeignCleared()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"{kind}: {type(error).__name__}: {error}"
        return Unreadable(problem, may_remove=kind != "BlockStored")
    return Unreadable(f"event of kind {kind!r}", may_remove=True)


def _fields(event: Any, places: tuple[str, ...]) -> Mapping[str, Any]:
    if isinstance(event, dict):
        return event
    fields = dict(zip(places, event[1:], strict=False))
    more = fields.pop("more", None)
    return {**more, **fields} if isinstance(more, dict) else fields


def _stored(fields: Mapping[str, Any]) -> ForeignStored:
    hashes = tuple(map(_hash, fields["block_hashes"]))
    parent = fields.get("parent_block_hash")
    return ForeignStored(
        block_hashes=hashes,
        parent=None if parent is None else _hash(parent),
        token_ids=array("I", fields["token_ids"]),
        block_size=_number(fields["block_size"], 1 << 20),
        medium=_text(fields, "medium"),
        lora_name=_text(fields, "lora_name") or "",
        cache_salt=_text(fields, "cache_salt") or "",
        extra_keys=_extra_keys(fields, len(hashes)),
        group=_number(fields.get("group_idx") or 0, _MAX_GROUP),
        kind=_text(fields, "kv_cache_spec_kind"),
        locality=_text(fields, "locality"),
        session_id=_text(fields, "session_id") or "",
    )


def _removed(fields: Mapping[str, Any]) -> ForeignRemoved:
    return ForeignRemoved(
        block_hashes=tuple(map(_hash, fields["block_hashes"])),
        medium=_text(fields, "medium"),
        group=_number(fields.get("group_idx") or 0, _MAX_GROUP),
        locality=_text(fields, "locality"),
    )


def _hash(value: Any) -> ForeignHash:
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value % _WORD
    raise TypeError(f"a hash of type {type(value).__name__}")


def _number(value: Any, maximum: int) -> int:
    if isinstance(value, int) and 0 <= value <= maximum:
        return value
    raise ValueError(f"{value!r}: expected 0 .. {maximum}")


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{name}: expected text")


def _extra_keys(fields: Mapping[str, Any], num_blocks: int) -> tuple[tuple[ExtraKey, ...], ...]:
    """The keys of each block, whichever way they are told; empty where no block has any."""
    by_block = fields.get("extra_keys")
    if by_block is None and (infos := fields.get("block_mm_infos")) is not None:
        by_block = list(map(_media_of, infos))
    if not by_block or not any(by_block):
        return ()
    if len(by_block) != num_blocks:
        raise ValueError(f"extra keys of {len(by_block)} blocks for {num_blocks}")
    return tuple(tuple(map(_extra_key, keys or ())) for keys in by_block)


def _media_of(info: Any) -> list[list[Any]]:
    """Dynamo's description of the media in one block, as vLLM would tell it."""
    objects = (info or {}).get("mm_objects") or []
    places = [(each["mm_hash"], (each.get("offsets") or [[0, 0]])[0][0]) for each in objects]
    return list(starmap(lambda digest, offset: [f"{digest:016x}", offset], places))


def _extra_key(key: Any) -> ExtraKey:
    match key:
        case [str() as name, int() as offset]:
            return name, offset
        case str() | int() | bytes():
            return key
        case _:
            raise TypeError(f"an extra key of type {type(key).__name__}")
