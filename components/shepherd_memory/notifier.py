"""What a session is told when its turns leave the cache, and who waits for it.

One notice per session and batch of evictions.  Its id is a hash of the archive
ids it tells of, so that the same news has the same name however often it is
written or delivered.  The outbox row commits with the turns' change of state;
delivery repeats until somebody acknowledges it.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Sequence

from shepherd_events.events import Notice
from shepherd_memory.archive.records import StoredTurn

MAX_TOPIC_WORDS = 8
MAX_TOPIC_CHARS = 80
_NO_TOPIC = "an earlier part of this conversation"
_QUOTES = frozenset("\"'`´‘’‚‛“”„‟«»‹›")  # noqa: RUF001  the quotation marks of many languages


def notice_of(tenant: str, turns: Sequence[StoredTurn], now_unix_ns: int) -> Notice:
    """The notice for turns of one session that were archived together; at least one."""
    ordered = sorted(turns, key=lambda turn: (turn.ordinal, turn.archive_id))
    archive_ids = tuple(turn.archive_id for turn in ordered)
    topic = topic_of(next((turn.question for turn in ordered if turn.question), ""))
    return Notice(
        notice_id=hashlib.sha256("\n".join(archive_ids).encode()).hexdigest(),
        tenant=tenant,
        session_id=ordered[0].session,
        turns=tuple(dict.fromkeys(turn.ordinal for turn in ordered)),
        archive_ids=archive_ids,
        topic=topic,
        text=f'NOTICE: Conversation regarding "{topic}" has been moved to long-term memory. '
        "Use search_memory to recall it.",
        created_unix_ns=now_unix_ns,
    )


def topic_of(question: str) -> str:
    """The first words of a question, on one line and without anything that ends a quotation."""
    readable = "".join(" " if _is_control(char) else char for char in question[:4096])
    words = "".join(char for char in readable if char not in _QUOTES).split()
    topic = " ".join(words[:MAX_TOPIC_WORDS])[:MAX_TOPIC_CHARS].strip()
    return topic or _NO_TOPIC


def _is_control(char: str) -> bool:
    """Control, format (bidirectional marks), surrogate, private; and every separator."""
    return unicodedata.category(char)[0] in {"C", "Z"}


class Bell:
    """Wakes whoever waits for notices; event loop only.

    Take a `ticket` first, look into the outbox, then wait with it: what rang in
    between ends the wait at once.
    """

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.closed = False
        """Nobody will ring any more: stop waiting for good."""

    def ticket(self) -> asyncio.Event:
        """The event that the next ring sets."""
        return self._rung

    def ring(self) -> None:
        """Wake everybody who waits."""
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    def close(self) -> None:
        """Wake everybody for the last time."""
        self.closed = True
        self.ring()


async def rung_within(ticket: asyncio.Event, timeout_s: float) -> bool:
    """Wait for a ring; False when none came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await ticket.wait()
    except TimeoutError:
        return False
    return True
