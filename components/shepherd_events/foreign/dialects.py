"""In what vLLM, SGLang and Dynamo's TensorRT-LLM worker differ.

All send `[time, events, rank]`; an event is a map with its kind under "type",
or, in older versions, an array that begins with it.  A dialect names the places
of such an array, and what a bare text among the extra keys of a block means.

Sources: vllm/distributed/kv_events.py (0.32), sglang/srt/disaggregation/kv_events.py
(0.5.23), dynamo/trtllm/publisher.py (1.4.2), and the readers of dynamo's kv-router.
"""

from __future__ import annotations

from dataclasses import dataclass

_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
)
_GROUP = ("group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One system's form."""

    name: str
    stored: tuple[str, ...]
    """Names of the places of a BlockStored that is an array."""
    removed: tuple[str, ...]


VLLM = Dialect(
    "vllm",
    stored=(*_STORED, "lora_name", "extra_keys", *_GROUP),
    removed=("block_hashes", "medium", *_GROUP),
)
SGLANG = Dialect("sglang", stored=(*_STORED, "more"), removed=("block_hashes", "medium"))
"""`more` is a map of further fields."""
DYNAMO_TRTLLM = Dialect("dynamo-trtllm", stored=_STORED, removed=("block_hashes", "medium"))

DIALECTS = {dialect.name: dialect for dialect in (VLLM, SGLANG, DYNAMO_TRTLLM)}

MAIN_ATTENTION = frozenset({None, "full_attention", "mla_attention", "sink_full_attention"})
"""Kinds whose blocks hold every token of the sequence; of others a hash does not name tokens."""

CACHE_SALT_PREFIX = "dynamo-cache-salt:"
"""By which Dynamo marks a salt that it hands to vLLM."""
