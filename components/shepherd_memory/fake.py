"""A worker's cache, a tokenizer and a directory that do what they are told.

Deterministic stand-ins for what the memory service listens to: for tests and
for trying the service without a model.  They keep the promises of the stream:
parents before children, a turn after its blocks, an epoch that numbers from 1.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import pairwise

from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.discovery import DirectoryEvent, StreamJoined
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockHash,
    BlocksRemoved,
    BlocksStored,
    Body,
    CacheContext,
    Frame,
    StreamId,
    Tier,
    TurnCompleted,
)
from shepherd_events.transcript import Message, TokenizerAssets

_ROLES = ("system", "user", "assistant", "tool", "developer")
_FIRST_CHARACTER = 16
"""Token id of the character 0; lower ids open messages."""


def spell(messages: Iterable[tuple[str, str]]) -> array[int]:
    """One token that opens each message, then one per character."""
    token_ids = array("I")
    for role, text in messages:
        token_ids.append(_ROLES.index(role))
        token_ids.extend(_FIRST_CHARACTER + ord(character) for character in text)
    return token_ids


class SpelledTranscript:
    """Reads what `spell` wrote."""

    def read(self, token_ids: array[int]) -> tuple[Message, ...]:
        """Messages whose spans tile the sequence; what precedes the first marker is raw."""
        starts = [place for place, token in enumerate(token_ids) if token < _FIRST_CHARACTER]
        if token_ids and (not starts or starts[0]):
            starts.insert(0, 0)
        return tuple(
            _message(token_ids, start, end) for start, end in pairwise([*starts, len(token_ids)])
        )


def _message(token_ids: array[int], start: int, end: int) -> Message:
    opened = token_ids[start] < _FIRST_CHARACTER
    role = _ROLES[token_ids[start]] if opened else "raw"
    characters = token_ids[start + opened : end]
    text = "".join(chr(token - _FIRST_CHARACTER) for token in characters)
    return Message(role, text, start, end)


class FakeWorker:
    """A cache that stores what it is shown and evicts what it is told, as frames."""

    def __init__(
        self,
        worker_id: str = "w1",
        *,
        epoch: int = 1,
        block_size: int = 4,
        model: str = "fake",
        spell: Callable[[Sequence[tuple[str, str]]], array[int]] = spell,
    ) -> None:
        self.stream = StreamId(worker_id)
        self.epoch = epoch
        self.frames: list[Frame] = []
        """Everything published so far; the sequence number is the place in the list, from 1."""
        self._block_size = block_size
        self._model = model
        self._spell = spell
        self._resident: set[int] = set()

    def blocks_of(self, said: Sequence[tuple[str, str]], *, salt: str = "") -> array[int]:
        """The hashes of a conversation's full blocks."""
        root = root_hash(self._model.encode(), cache_salt=salt)
        return array("Q", block_hashes(root, self._spell(said), self._block_size))

    def complete(
        self,
        said: Sequence[tuple[str, str]],
        *,
        session: str = "s",
        request: str = "",
        tenant: str = "",
        turn: int = 0,
        turn_is_given: bool = False,
        started_unix_ns: int | None = None,
        final: bool = False,
    ) -> list[Frame]:
        """A request that ended with this conversation: its missing blocks, then the turn."""
        first = len(self.frames)
        request = request or f"{self.stream}-{first + 1}"
        origin = Attribution(request, session, tenant, turn)
        token_ids = self._spell(said)
        hashes = self.blocks_of(said, salt=tenant)
        self._store(hashes, token_ids)
        self.emit(
            TurnCompleted(
                origin=origin,
                prompt_tokens=len(token_ids),
                cached_tokens=0,
                generated_tokens=0,
                last_block_hash=BlockHash(hashes[-1]) if hashes else None,
                num_full_blocks=len(hashes),
                tail_token_ids=token_ids[len(hashes) * self._block_size :],
                finish_reason="stop",
                started_unix_ns=len(self.frames) if started_unix_ns is None else started_unix_ns,
                context=CacheContext(model=self._model),
                session_final=final,
                turn_is_given=turn_is_given,
            )
        )
        return self.frames[first:]

    def evict(self, hashes: Iterable[int], tier: Tier = Tier.DEVICE) -> Frame:
        """Remove blocks from a tier."""
        gone = array("Q", hashes)
        self._resident -= set(gone)
        return self.emit(BlockBatch((BlocksRemoved(gone, tier),)))

    def emit(self, body: Body) -> Frame:
        """Publish anything as the next frame."""
        seq = len(self.frames) + 1
        frame = Frame(self.stream, self.epoch, seq, ts_unix_ns=seq, body=body)
        self.frames.append(frame)
        return frame

    def _store(self, hashes: array[int], token_ids: array[int]) -> None:
        runs = []
        for block, block_hash in enumerate(hashes):
            if block_hash in self._resident:
                continue
            own = token_ids[block * self._block_size : (block + 1) * self._block_size]
            parent = BlockHash(hashes[block - 1]) if block else None
            runs.append(BlocksStored(array("Q", (block_hash,)), parent, own, block))
        self._resident.update(hashes)
        if runs:
            self.emit(BlockBatch(tuple(runs)))


class FakeDirectory:
    """A directory that says what it is told."""

    def __init__(self, assets: TokenizerAssets | None = None) -> None:
        self._assets = assets or TokenizerAssets({})
        self._events: asyncio.Queue[DirectoryEvent] = asyncio.Queue()
        self._present: dict[StreamId, StreamJoined] = {}
        """What a watcher has heard of, and the next one hears first."""

    def say(self, event: DirectoryEvent) -> None:
        """Tell the watcher."""
        self._events.put_nowait(event)

    async def watch(self) -> AsyncIterator[DirectoryEvent]:
        """See `StreamDirectory.watch`; for one watcher at a time."""
        for joined in list(self._present.values()):
            yield joined
        while True:
            event = await self._events.get()
            if isinstance(event, StreamJoined):
                self._present[event.descriptor.address.stream] = event
            else:
                self._present.pop(event.stream, None)
            yield event

    async def tokenizer_assets(self, stream: StreamId) -> TokenizerAssets:
        """See `StreamDirectory.tokenizer_assets`."""
        del stream
        return self._assets
