"""Our engine's cache events, told the way TensorRT-LLM tells its own.

Block hashes are the engine's private names, partial blocks are told like full
ones, a move between tiers is an update, and the oldest events are lost when
nobody takes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from shepherd_events.block_hash import salt_id
from shepherd_events.events import BlocksRemoved, BlocksStored, Tier
from shepherd_worker.engine.protocol import CacheEvent, EngineInfo, SequenceFinished
from trtllm_backend.variants import VARIANT

MAX_PARTIAL_BLOCKS = 4
_LEVELS = {Tier.DEVICE: 0, Tier.HOST: 1}


class KvEvents:
    """One engine's events, on their way into a bounded buffer."""

    def __init__(self, info: EngineInfo, buffer: deque[dict[str, Any]], rank: int | None) -> None:
        """`rank` is None without attention data parallelism."""
        self._buffer = buffer
        self._info = info
        self._rank = rank
        self._num_events = 0
        self._levels: dict[int, set[int]] = {}
        self._salts: dict[bytes, str] = {}
        self._partial: deque[Any] = deque()
        tiers = [info.num_blocks.get(tier, 0) for tier in (Tier.DEVICE, Tier.HOST)]
        self._say({"type": "created", "num_blocks_per_cache_level": tiers})

    def learn_salt(self, cache_salt: str) -> None:
        """Remember what a salt's id stands for."""
        self._salts[salt_id(cache_salt)] = cache_salt

    def apply(self, events: Iterable[CacheEvent]) -> None:
        """Tell one step's events."""
        for event in events:
            match event:
                case BlocksStored():
                    self._stored(event)
                case BlocksRemoved():
                    self._removed(event)
                case SequenceFinished():
                    self._finished(event)
                case _:
                    pass

    def _say(self, data: dict[str, Any]) -> None:
        event: dict[str, Any] = {
            "event_id": self._num_events,
            "data": data,
            "window_size": self._info.max_seq_len,
        }
        if self._rank is not None:
            event["attention_dp_rank"] = self._rank
        if VARIANT.hex_hashes:
            event |= {"hash_algo": "v2_sha256", "layer_group_id": 0}
        self._num_events += 1
        self._buffer.append(event)

    def _stored(self, event: BlocksStored) -> None:
        """Runs of new blocks are stored; blocks that another tier holds have moved."""
        level, run = _LEVELS[event.tier], list[int]()
        for index, block in enumerate(event.block_hashes):
            held = self._levels.setdefault(block, set())
            if held:
                self._stored_run(event, run)
                run = []
                self._moved(block, *held, level)
            else:
                run.append(index)
            held.add(level)
        self._stored_run(event, run)

    def _stored_run(self, event: BlocksStored, run: list[int]) -> None:
        if not run:
            return
        size, first = self._info.block_size, run[0]
        parent = event.block_hashes[first - 1] if first else event.parent_hash
        blocks = [
            self._block(
                _name(event.block_hashes[index]),
                event.token_ids[index * size : (index + 1) * size],
                event.context.cache_salt_id,
            )
            | self._media(event, index)
            for index in run
        ]
        parent_hash = None if parent is None else _name(parent)
        self._say({"type": "stored", "parent_hash": parent_hash, "blocks": blocks})

    def _media(self, event: BlocksStored, index: int) -> dict[str, Any]:
        """What a block with images says of them: tokens beyond the vocabulary, and keys since 1.3."""
        size = self._info.block_size
        first = (event.start_block + index) * size
        spans = [key.span for key in event.media if key.block_index == index]
        if not spans:
            return {}
        token_ids = event.token_ids[index * size : (index + 1) * size]
        for span in spans:
            for at in range(max(first, span.offset), min(first + size, span.offset + span.length)):
                token_ids[at - first] = self._info.vocab_size + 1
        told: dict[str, Any] = {"tokens": list(_tokens(token_ids))}
        if VARIANT.salted_events:
            told["mm_keys"] = [
                {"type": "mm_key", "hash": span.digest.hex() * 2, "start_offset": 0}
                for span in spans
            ]
        return told

    def _moved(self, block: int, old: int, new: int) -> None:
        diff = {"type": "event_diff", "new_value": new, "old_value": old}
        name = _name(block)
        self._say({"type": "updated", "block_hash": name, "cache_level": diff, "priority": None})

    def _removed(self, event: BlocksRemoved) -> None:
        gone = []
        for block in event.block_hashes:
            held = self._levels[block]
            held.discard(_LEVELS[event.tier])
            if not held:
                del self._levels[block]
                gone.append(_name(block))
        if gone:
            self._say({"type": "removed", "block_hashes": gone})

    def _finished(self, event: SequenceFinished) -> None:
        """Tell the rest of a sequence, its last token excepted, as a partial block."""
        tail = event.tail_token_ids[:-1]
        if not tail or event.last_block_hash not in self._levels:
            return
        content = event.last_block_hash.to_bytes(8, "little") + tail.tobytes()
        name = _name(int.from_bytes(blake2b(content, digest_size=8).digest(), "little"))
        parent = _name(event.last_block_hash)
        block = self._block(name, tail, event.context.cache_salt_id)
        self._say({"type": "stored", "parent_hash": parent, "blocks": [block]})
        self._partial.append(name)
        if len(self._partial) > MAX_PARTIAL_BLOCKS:
            self._say({"type": "removed", "block_hashes": [self._partial.popleft()]})

    def _block(self, name: int | str, tokens: Iterable[int], salt: bytes) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "stored_block",
            "block_hash": name,
            "tokens": list(_tokens(tokens)),
            "cache_level": 0,
            "priority": 35,
        }
        if VARIANT.salted_events:
            told |= {"mm_keys": [], "cache_salt": self._salts.get(salt)}
        return told


def _tokens(token_ids: Iterable[int]) -> Iterator[dict[str, Any]]:
    for token_id in token_ids:
        yield {"type": "unique_token", "token_id": token_id, "token_extra_id": 0}


def _name(block: int) -> int | str:
    """The engine's private name of a block."""
    digest = blake2b(block.to_bytes(8, "little"), digest_size=32, person=b"fake.trtllm").digest()
    return digest.hex() if VARIANT.hex_hashes else int.from_bytes(digest[:8], "little")
