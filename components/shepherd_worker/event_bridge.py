"""From the engine's cache events to everybody who listens.

One task reads the engine's events in order and hands each to the KV event
stream and to Dynamo's router.  Neither can block it or fail it.

The router knows no tiers: it hears of a block when the first tier has it, and
again when no tier has it any more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, assert_never

from shepherd_events.events import (
    BlockEvent,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    TurnCompleted,
)
from shepherd_worker.attribution import SessionOrigin
from shepherd_worker.engine.protocol import CacheEvent, Engine, SequenceFinished
from shepherd_worker.tier_fold import TierFold


class StreamPublisher(Protocol):
    """The publishing end of the KV event stream; never blocks, never raises."""

    def publish(self, events: tuple[BlockEvent, ...]) -> None:
        """Append block events to the stream, in order."""
        ...

    def publish_turn(self, turn: TurnCompleted) -> None:
        """Append the end of a turn to the stream."""
        ...


class RouterFeed(Protocol):
    """What a KV-aware router wants to know; never blocks, never raises."""

    def stored(self, event: BlocksStored) -> None:
        """The worker holds these blocks now."""
        ...

    def removed(self, event: BlocksRemoved) -> None:
        """The worker holds these blocks no longer."""
        ...


class EventBridge:
    """Reads the events of one rank of an engine for as long as the engine lives."""

    def __init__(
        self,
        *streams: StreamPublisher,
        router: RouterFeed | None,
        completes_turns: bool,
    ) -> None:
        self._streams = streams
        self._router = router
        self._tiers = TierFold()
        self._completes_turns = completes_turns
        """False on a prefill worker: the turn ends where its answer is generated."""

    async def run(self, engine: Engine, rank: int = 0) -> None:
        """Pass events on until the engine closes."""
        async for batch in engine.cache_events(rank):
            self.forward(batch)

    def forward(self, batch: tuple[CacheEvent, ...]) -> None:
        """Pass one batch on, keeping its order."""
        blocks: list[BlockEvent] = []
        for event in batch:
            if isinstance(event, SequenceFinished):
                self._publish(blocks)
                self._turn(event)
            else:
                blocks.append(event)
                self._route(event)
        self._publish(blocks)

    def _publish(self, blocks: list[BlockEvent]) -> None:
        if blocks:
            for stream in self._streams:
                stream.publish(tuple(blocks))
        blocks.clear()

    def _turn(self, event: SequenceFinished) -> None:
        origin = event.origin
        if not self._completes_turns or origin is None:
            return
        session = origin if isinstance(origin, SessionOrigin) else None
        turn = TurnCompleted(
            origin=origin,
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            generated_tokens=event.generated_tokens,
            last_block_hash=event.last_block_hash,
            num_full_blocks=event.num_full_blocks,
            tail_token_ids=event.tail_token_ids,
            finish_reason=event.finish_reason.value,
            started_unix_ns=event.started_unix_ns,
            context=event.context,
            parent_session_id=session.parent_session_id if session else "",
            session_final=session.session_final if session else False,
            traceparent=session.traceparent if session else "",
            turn_is_given=session.turn_is_given if session else False,
        )
        for stream in self._streams:
            stream.publish_turn(turn)

    def _route(self, event: BlockEvent) -> None:
        if self._router is None:
            return
        match event:
            case BlocksStored():
                for run in self._tiers.stored(event):
                    self._router.stored(run)
            case BlocksRemoved():
                if gone := self._tiers.removed(event):
                    self._router.removed(replace(event, block_hashes=gone))
            case BlocksReused() | BlocksCleared():
                pass
            case _:
                assert_never(event)
