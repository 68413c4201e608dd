"""What of a stream may be read by whom.

    mode        tokens            block hashes, sessions, tenants   notices' words
    ---------   ---------------   -------------------------------   --------------
    full        in clear          in clear                          in clear
    encrypted   under a key of    in clear                          left out
                their tenant
    ids-only    left out          in clear                          left out
    hashed      left out          keyed hashes                      left out

What is left out or hashed never enters the publisher's memory of the stream;
tokens are sealed as a frame or a snapshot is written.  A block hash in clear lets
whoever knows the tenant's salt test whether a guessed prompt was served: `hashed`
does not.  Without tokens nobody can archive a turn.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Body,
    CacheContext,
    MediaKey,
    Notice,
    StreamId,
    TurnCompleted,
)

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import Sealer, TenantKeys

_NO_TOKENS: array[int] = array("I")


class Privacy(StrEnum):
    """How much a stream tells; see the module's docstring."""

    FULL = "full"
    ENCRYPTED = "encrypted"
    IDS_ONLY = "ids-only"
    HASHED = "hashed"


class Veil(Protocol):
    """What a publisher makes of the things it is told."""

    privacy: Privacy

    def hide(self, events: Sequence[BlockEvent]) -> tuple[BlockEvent, ...]:
        """As they are kept and counted from now on; in the teller's thread."""
        ...

    def hide_body(self, body: TurnCompleted | Notice) -> TurnCompleted | Notice:
        """As `hide`."""
        ...

    def seal(self, run: BlocksStored, stream: StreamId, epoch: int) -> BlocksStored:
        """As it is written; from several threads."""
        ...

    def seal_body(self, body: Body, stream: StreamId, epoch: int) -> Body:
        """As `seal`."""
        ...


class NoVeil:
    """Everything as it is."""

    privacy = Privacy.FULL

    def hide(self, events: Sequence[BlockEvent]) -> tuple[BlockEvent, ...]:
        """The events themselves."""
        return tuple(events)

    def hide_body(self, body: TurnCompleted | Notice) -> TurnCompleted | Notice:
        """The body itself."""
        return body

    def seal(self, run: BlocksStored, stream: StreamId, epoch: int) -> BlocksStored:
        """The run itself."""
        del stream, epoch
        return run

    def seal_body(self, body: Body, stream: StreamId, epoch: int) -> Body:
        """The body itself."""
        del stream, epoch
        return body


class IdsOnly(NoVeil):
    """No tokens."""

    privacy = Privacy.IDS_ONLY

    def hide(self, events: Sequence[BlockEvent]) -> tuple[BlockEvent, ...]:
        """Without tokens."""
        return tuple(map(self._hidden, events))

    def hide_body(self, body: TurnCompleted | Notice) -> TurnCompleted | Notice:
        """Without tokens and words."""
        if isinstance(body, Notice):
            return replace(body, topic="", text="")
        return replace(body, tail_token_ids=_NO_TOKENS, withheld=True)

    def _hidden(self, event: BlockEvent) -> BlockEvent:
        return replace(event, token_ids=_NO_TOKENS) if isinstance(event, BlocksStored) else event


class Hashed(IdsOnly):
    """No tokens, and every id that could be guessed or followed elsewhere under a keyed hash."""

    privacy = Privacy.HASHED

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _hidden(self, event: BlockEvent) -> BlockEvent:
        event = super()._hidden(event)
        if isinstance(event, BlocksCleared):
            return event
        hashes = array("Q", map(self._block, event.block_hashes))
        event = replace(event, block_hashes=hashes, origin=self._origin(event.origin))
        if isinstance(event, BlocksRemoved):
            return event
        parent = None if event.parent_hash is None else self._block(event.parent_hash)
        event = replace(event, parent_hash=parent, context=self._context(event.context))
        if isinstance(event, BlocksReused):
            return event
        return replace(event, media=tuple(map(self._media, event.media)))

    def hide_body(self, body: TurnCompleted | Notice) -> TurnCompleted | Notice:
        """Without tokens and words, ids hashed."""
        body = super().hide_body(body)
        if isinstance(body, Notice):
            return replace(
                body,
                tenant=self._name(body.tenant),
                session_id=self._name(body.session_id),
                archive_ids=tuple(map(self._name, body.archive_ids)),
            )
        origin = self._origin(body.origin)
        assert origin is not None
        last = body.last_block_hash
        return replace(
            body,
            origin=origin,
            last_block_hash=None if last is None else self._block(last),
            context=self._context(body.context),
            parent_session_id=self._name(body.parent_session_id),
        )

    def _digest(self, value: bytes, size: int) -> bytes:
        return hashlib.blake2b(value, digest_size=size, key=self._key).digest()

    def _block(self, block_hash: int) -> BlockHash:
        hidden = int.from_bytes(self._digest(block_hash.to_bytes(8, "little"), 8), "little")
        return BlockHash(hidden or 1)

    def _name(self, name: str) -> str:
        return self._digest(name.encode("utf-8", "surrogatepass"), 16).hex() if name else ""

    def _origin(self, origin: Attribution | None) -> Attribution | None:
        if origin is None:
            return None
        return Attribution(
            self._name(origin.request_id),
            self._name(origin.session_id),
            self._name(origin.tenant),
            origin.turn,
        )

    def _context(self, context: CacheContext) -> CacheContext:
        salt = context.cache_salt_id
        return replace(context, cache_salt_id=self._digest(salt, 16) if salt else b"")

    def _media(self, key: MediaKey) -> MediaKey:
        return replace(key, span=replace(key.span, digest=self._digest(key.span.digest, 16)))


class Encrypted(NoVeil):
    """Tokens under their tenants' keys; of a tenant without one, none."""

    privacy = Privacy.ENCRYPTED

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def hide_body(self, body: TurnCompleted | Notice) -> TurnCompleted | Notice:
        """A notice without its words."""
        return replace(body, topic="", text="") if isinstance(body, Notice) else body

    def seal(self, run: BlocksStored, stream: StreamId, epoch: int) -> BlocksStored:
        """With its tokens sealed, or without any."""
        if not run.token_ids:
            return run
        tenant = run.origin.tenant if run.origin else ""
        sealed = self._sealer.seal(tenant, run.token_ids, place_of(run, stream, epoch))
        return replace(run, token_ids=_NO_TOKENS, sealed=sealed)

    def seal_body(self, body: Body, stream: StreamId, epoch: int) -> Body:
        """With every run sealed, or the tail of a turn."""
        if isinstance(body, BlockBatch):
            return BlockBatch(
                tuple(
                    self.seal(event, stream, epoch) if isinstance(event, BlocksStored) else event
                    for event in body.events
                )
            )
        if not isinstance(body, TurnCompleted):
            return body
        place = place_of(body, stream, epoch)
        sealed = self._sealer.seal(body.origin.tenant, body.tail_token_ids, place)
        return replace(body, tail_token_ids=_NO_TOKENS, sealed_tail=sealed, withheld=sealed is None)


class Opener:
    """Reads what was sealed, as far as the keys reach; the rest is without tokens, as if left out."""

    def __init__(self, keys: TenantKeys | None, stream: StreamId) -> None:
        self._keys = keys
        self._stream = stream

    def open_body(self, body: Body, epoch: int) -> Body:
        """The body with its tokens in clear, as far as the keys reach.

        Raises:
            CodecError: tokens were changed, or belong to something else.
        """
        if isinstance(body, BlockBatch):
            if not any(isinstance(each, BlocksStored) and each.sealed for each in body.events):
                return body
            return BlockBatch(
                tuple(
                    self._open_run(event, epoch) if isinstance(event, BlocksStored) else event
                    for event in body.events
                )
            )
        if not isinstance(body, TurnCompleted) or body.sealed_tail is None:
            return body
        place = place_of(body, self._stream, epoch)
        tail = self._keys.open(body.sealed_tail, place) if self._keys else None
        if tail is None:
            return replace(body, sealed_tail=None, withheld=True)
        return replace(body, tail_token_ids=tail, sealed_tail=None)

    def open_runs(self, runs: Sequence[BlocksStored], epoch: int) -> tuple[BlocksStored, ...]:
        """As `open_body`, for the runs of a snapshot."""
        return tuple(self._open_run(run, epoch) for run in runs)

    def _open_run(self, run: BlocksStored, epoch: int) -> BlocksStored:
        if run.sealed is None:
            return run
        place = place_of(run, self._stream, epoch)
        tokens = self._keys.open(run.sealed, place) if self._keys else None
        return replace(run, token_ids=_NO_TOKENS if tokens is None else tokens, sealed=None)


def place_of(body: BlocksStored | TurnCompleted, stream: StreamId, epoch: int) -> bytes:
    """What sealed tokens belong to, and cannot be moved away from."""
    if isinstance(body, BlocksStored):
        what = b"run" + body.block_hashes.tobytes()
    else:
        what = b"turn" + body.origin.request_id.encode("utf-8", "surrogatepass")
    return f"{stream}|{epoch}|".encode() + what
