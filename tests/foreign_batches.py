"""One batch of each kind, made by the real code of each system; see `foreign_peers.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

TIME_S = 1790000000.5
TOKENS = [1, 2, 3, 70000]
DIGEST = "ab" * 32


def vllm_batches(kv: Any) -> dict[str, bytes]:
    """As vLLM's own encoder writes them; `kv` is its module."""

    def batch(*events: Any) -> bytes:
        return msgspec.msgpack.encode(kv.KVEventBatch(TIME_S, list(events), 3))

    def stored(**fields: Any) -> Any:
        plain = {
            "block_hashes": [1, 2**64 - 1],
            "parent_block_hash": None,
            "token_ids": TOKENS,
            "block_size": 2,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
        }
        return kv.BlockStored(**plain | fields)

    child = stored(block_hashes=[7], parent_block_hash=2**64 - 1, token_ids=[5, 6])
    media = [["adapter", (DIGEST, -1), "dynamo-cache-salt:blue"], ["adapter", b"\x01\x02"]]
    full = {
        "lora_id": 4,
        "lora_name": "adapter",
        "extra_keys": [tuple(keys) for keys in media],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        "session_id": "anna",
    }
    offloaded = stored(block_hashes=[1], token_ids=[], block_size=0, medium="CPU")
    return {
        "vllm_root_and_child": batch(stored(), child),
        "vllm_every_field": batch(stored(**full)),
        "vllm_bytes": batch(stored(block_hashes=[b"\x00" * 31 + b"\x01"], token_ids=[1, 2])),
        "vllm_offloaded": batch(offloaded),
        "vllm_window": batch(
            stored(group_idx=1, kv_cache_spec_kind="sliding_window", kv_cache_spec_sliding_window=8)
        ),
        "vllm_removed": batch(
            kv.BlockRemoved([1], "GPU"), kv.BlockRemoved([7], "STORAGE", 1, "REMOTE", "pool")
        ),
        "vllm_cleared": batch(kv.AllBlocksCleared()),
    }


def sglang_batches(kv: Any) -> dict[str, bytes]:
    """As SGLang's own encoder writes them; `kv` is its module."""
    medium = kv.StorageMedium
    stored = kv.BlockStored([-1, 5], None, TOKENS, 2, None, medium.GPU, "blue", "anna", "adapter")
    batch = kv.KVEventBatch(
        TIME_S, [stored, kv.BlockRemoved([-1], medium.CPU), kv.AllBlocksCleared()], 3
    )
    return {"sglang_every_kind": msgspec.msgpack.encode(batch)}


def trtllm_batches(publisher: Any, take: Callable[[], bytes]) -> dict[str, bytes]:
    """As Dynamo's TensorRT-LLM worker writes them; `take` gives the payload that was sent."""
    media = [None, {"mm_objects": [{"mm_hash": 0xAB, "offsets": [[1, 2]]}]}]
    publisher.publish_stored(
        TOKENS, [2, 2], [1, 2**64 - 1], None, media, 3, lora_name="adapter", cache_salt="blue"
    )
    stored = take()
    publisher.publish_removed([2**64 - 1], 3)
    removed = take()
    publisher.publish_all_cleared(3)
    return {"trtllm_stored": stored, "trtllm_removed": removed, "trtllm_cleared": take()}
