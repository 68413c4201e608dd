"""Embeddings that another worker computed, fetched and checked before they are believed."""

from __future__ import annotations

import logging

from shepherd_worker.engine.embedded.transfer.service import TransferService
from shepherd_worker.engine.protocol import EncodedImage
from shepherd_worker.engine.validation import RequestLimits
from shepherd_worker.image import Array

log = logging.getLogger(__name__)

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint32": 4}


async def fetch_embeddings(
    transfer: TransferService, encoded: EncodedImage, limits: RequestLimits
) -> Array | None:
    """The embeddings behind a ticket; None when they cannot be had, or are not what they say."""
    vision, item_bytes = limits.vision, _ITEM_BYTES.get(encoded.dtype)
    fits = vision is not None and encoded.hidden_size == vision.hidden_size
    if vision is None or item_bytes is None or not fits or not _is_short(encoded, limits):
        log.warning("embeddings of another model cannot be used: %s", encoded)
        return None
    shape = (encoded.num_tokens, encoded.hidden_size)
    num_bytes = shape[0] * shape[1] * item_bytes
    fetched = await transfer.fetch_bytes(
        encoded.ticket, fingerprint=vision.fingerprint, max_bytes=num_bytes
    )
    if fetched is None or len(fetched) != num_bytes:
        return None
    return Array(encoded.dtype, shape, bytes(fetched))


def _is_short(encoded: EncodedImage, limits: RequestLimits) -> bool:
    return 1 <= encoded.num_tokens <= limits.max_seq_len
