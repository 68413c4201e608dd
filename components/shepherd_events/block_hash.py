"""The chained block hash: the content address of a full block of tokens.

Deterministic and equal on all workers that serve the same model, LoRA adapter
and cache salt, so that a hash stored by one worker is a hit on another:

    root     = H(model fingerprint, LoRA name, cache salt)
    block 0  = H(root,    its tokens, its media)
    block i  = H(block i-1, its tokens, its media)

Media are the images whose tokens lie in the block: the same placeholders with
another image, or with the same image elsewhere, are another block.

H is BLAKE2b with a 64-bit digest over little-endian words; 0 is never a hash.
A tenant's salt enters only the root, so chains of two tenants never meet.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from shepherd_events.events import BlockHash, MediaSpan

HASH_ALGO = "blake2b-64/v1"
"""What `StreamInfo.hash_algo` says of streams hashed here."""

_PERSON_ROOT = b"shepherd.root.1"
_PERSON_BLOCK = b"shepherd.block1"
_PERSON_MEDIA = b"shepherd.media1"


def root_hash(model_fingerprint: bytes, *, lora_name: str = "", cache_salt: str = "") -> BlockHash:
    """The parent of every first block of one model, adapter and tenant."""
    digest = blake2b(digest_size=8, person=_PERSON_ROOT)
    for part in (model_fingerprint, lora_name.encode(), cache_salt.encode()):
        digest.update(len(part).to_bytes(4, "little"))
        digest.update(part)
    return _never_zero(digest.digest())


def block_hash(
    parent: BlockHash, token_ids: array[int], media: Sequence[MediaSpan] = ()
) -> BlockHash:
    """The hash of one full block after `parent`; `token_ids` has typecode "I".

    `media` are the spans that reach into the block, in their order.
    """
    person = _PERSON_MEDIA if media else _PERSON_BLOCK
    digest = blake2b(parent.to_bytes(8, "little"), digest_size=8, person=person)
    digest.update(_little_endian(token_ids))
    for span in media:
        for part in (span.digest, span.modality.encode()):
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        digest.update(span.offset.to_bytes(4, "little"))
        digest.update(span.length.to_bytes(4, "little"))
    return _never_zero(digest.digest())


def media_between(media: Sequence[MediaSpan], start: int, stop: int) -> tuple[MediaSpan, ...]:
    """The spans that reach into the tokens [start, stop) of their sequence."""
    return tuple(span for span in media if span.offset < stop and start < span.offset + span.length)


def block_hashes(
    root: BlockHash, token_ids: array[int], block_size: int, media: Sequence[MediaSpan] = ()
) -> Iterator[BlockHash]:
    """The hashes of all full blocks of a sequence, in order; a rest is left out."""
    parent = root
    for stop in range(block_size, len(token_ids) + 1, block_size):
        start = stop - block_size
        parent = block_hash(parent, token_ids[start:stop], media_between(media, start, stop))
        yield parent


def salt_id(cache_salt: str) -> bytes:
    """Eight bytes that tell salts apart on the wire without telling the salt; empty for none."""
    if not cache_salt:
        return b""
    return blake2b(cache_salt.encode(), digest_size=8, person=b"shepherd.salt.1").digest()


def _little_endian(token_ids: array[int]) -> bytes:
    if sys.byteorder == "big":
        token_ids = array("I", token_ids)
        token_ids.byteswap()
    return token_ids.tobytes()


def _never_zero(digest: bytes) -> BlockHash:
    return BlockHash(int.from_bytes(digest, "little") or 1)
