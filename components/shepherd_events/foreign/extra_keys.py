"""What else entered a foreign block's hash: which salt, which media; pure.

vLLM lists the LoRA name, media and, for the first block of a chain, the salt of
a block, all untagged.  Read here: a text that is the LoRA name is that; a text
of 64 hex digits, or one with an offset, is a medium; any other text is the salt
in the first block of a chain and a medium elsewhere.  Whatever is read as a
medium keeps blocks apart that are not equal.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from shepherd_events.events import MediaSpan
from shepherd_events.foreign.dialects import CACHE_SALT_PREFIX
from shepherd_events.foreign.events import ExtraKey, ForeignStored

_DIGEST = re.compile("[0-9a-f]{64}")


def salt_of(event: ForeignStored) -> str:
    """The salt of the chain that begins with an event; empty for none."""
    if event.cache_salt or event.parent is not None:
        return event.cache_salt
    salts = [key for key in _without_lora(event, 0) if _is_salt(key)]
    return str(salts[0]).removeprefix(CACHE_SALT_PREFIX) if salts else ""


def media_of(event: ForeignStored, index: int, start: int) -> tuple[MediaSpan, ...]:
    """The media in block `index`, whose first token is the sequence's token `start`.

    Their lengths are not told: each span reaches to the end of the block.
    """
    at_root = event.parent is None and index == 0
    keys = [key for key in _without_lora(event, index) if not (at_root and _is_salt(key))]
    return tuple(_span(key, start, start + event.block_size) for key in keys)


def _without_lora(event: ForeignStored, index: int) -> list[ExtraKey]:
    if not event.extra_keys:
        return []
    keys = list(event.extra_keys[index])
    if event.lora_name in keys:
        keys.remove(event.lora_name)
    return keys


def _is_salt(key: ExtraKey) -> bool:
    return isinstance(key, str) and not _DIGEST.fullmatch(key)


def _span(key: ExtraKey, start: int, stop: int) -> MediaSpan:
    offset, modality = start, "image"
    match key:
        case (str() as name, int() as place):
            offset = min(max(0, start + place), stop - 1)
            content = name.encode()
        case str():
            content = key.encode()
        case bytes():
            content, modality = key, "embedding"
        case _:
            content, modality = str(key).encode(), "other"
    return MediaSpan(_digest_of(content), offset, stop - offset, modality)


def _digest_of(content: bytes) -> bytes:
    text = content.decode(errors="replace")
    if _DIGEST.fullmatch(text):
        return bytes.fromhex(text)
    return blake2b(content, digest_size=16, person=b"shepherd.media.1").digest()
