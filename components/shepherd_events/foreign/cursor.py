"""Order and completeness of a foreign stream, without any I/O.

Its messages are numbered from 0 in each run of the publisher, and nothing says
which run it is.  A live wire never repeats a number, so that one that comes
again is another run's; a replay is asked for from the last message on that was
delivered, and tells by that one whether it speaks of the same run.

    expected   live message             verdict
    --------   ----------------------   -------------------------------------
    unknown    n                        DELIVER
    n          n                        DELIVER
    n          > n                      GAP
    n          < n, heard live before   RESTARTED
    n          < n, replayed before     DUPLICATE, or RESTARTED with other bytes

    expected   replayed message         verdict
    --------   ----------------------   -------------------------------------
    unknown    the first                DELIVER
    n          the first is n-1, same   DUPLICATE, and the run is the same one
    n          n-1, with other bytes    RESTARTED
    n          the first is > n-1       LOST: it is kept no longer
    n          later, n                 DELIVER
    n          later, > n               GAP: ask again
    n          the end, before n-1      RESTARTED

Where a proxy hides that the publisher was started anew, and its first messages
are lost, a number that happens to be the expected one cannot be told apart.

DELIVER alone moves on.  After RESTARTED, LOST and a GAP that nothing closes,
`reset` and what the cache held is unknown.
"""

from __future__ import annotations

from enum import Enum, auto
from hashlib import blake2b

_MAX_UNHEARD = 20_000
"""Replayed messages whose live copies may still come, by their digests."""


class Verdict(Enum):
    """What a message means; see the module's table."""

    DELIVER = auto()
    DUPLICATE = auto()
    GAP = auto()
    RESTARTED = auto()
    LOST = auto()


class ForeignCursor:
    """The next message that is expected of one publisher."""

    def __init__(self) -> None:
        self.expected: int | None = None
        """None before the first message."""
        self._last = b""
        """Digest of the message before the expected one."""
        self._heard = -1
        """The highest number that came live."""
        self._verified = True
        self._unheard: dict[int, bytes] = {}
        """Digests of messages that were replayed and did not come live yet."""

    def reset(self) -> None:
        """Expect anything."""
        self.expected, self._last, self._heard, self._verified = None, b"", -1, True
        self._unheard.clear()

    def live(self, seq: int, payload: bytes) -> Verdict:
        """Judge a message of the live wire."""
        if self.expected is not None and seq <= self._heard:
            return Verdict.RESTARTED
        if self._unheard.pop(seq, None) not in {None, _digest(payload)}:
            return Verdict.RESTARTED
        verdict = self._next(seq, payload)
        if verdict is not Verdict.GAP:
            self._heard = max(self._heard, seq)
        return verdict

    def begin_replay(self) -> int:
        """The number from which on to ask."""
        self._verified = self.expected is None
        return max(0, self.expected - 1) if self.expected is not None else 0

    def replayed(self, seq: int, payload: bytes) -> Verdict:
        """Judge a message of a replay."""
        if self._verified or self.expected is None:
            verdict = self._next(seq, payload)
            if verdict is Verdict.DELIVER:
                self._expect_live(seq)
            return verdict
        if seq >= self.expected:
            return Verdict.LOST
        if seq == self.expected - 1 and _digest(payload) != self._last:
            return Verdict.RESTARTED
        self._verified = seq == self.expected - 1
        return Verdict.DUPLICATE

    def end_replay(self) -> Verdict:
        """Judge the end of a replay: DUPLICATE where nothing speaks against it."""
        return Verdict.DUPLICATE if self._verified else Verdict.RESTARTED

    def _expect_live(self, seq: int) -> None:
        self._unheard[seq] = self._last
        if len(self._unheard) > _MAX_UNHEARD:
            del self._unheard[next(iter(self._unheard))]

    def _next(self, seq: int, payload: bytes) -> Verdict:
        if self.expected is not None and seq > self.expected:
            return Verdict.GAP
        if self.expected is not None and seq < self.expected:
            return Verdict.DUPLICATE
        self.expected = seq + 1
        self._last = _digest(payload)
        return Verdict.DELIVER

    def __repr__(self) -> str:
        return f"<ForeignCursor expects {'anything' if self.expected is None else self.expected}>"


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=16).digest()
