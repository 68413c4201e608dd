"""What clients saw, and whether a memory holds just that; without clocks and I/O.

told      a turn that a client saw answered is in the memory, word for word
true      whatever is in the memory was said: a turn that was asked several times, because
          attempts failed, may be there as one of those as well
in order  the turns of a session are numbered in the order in which they were answered
once      no turn is there twice, unless it was asked again; no archived turn is told of twice

A session asks nothing twice by itself, so that its turns are known by their questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class SeenTurn:
    """One message of a client, with what came back."""

    session: str
    ordinal: int
    """From 1."""
    asked: str
    answer: str | None = None
    """None while nobody has answered."""
    broken: list[str] = field(default_factory=list)
    """What came of attempts that failed."""


@dataclass(frozen=True, slots=True)
class HeldTurn:
    """One turn as the memory has it."""

    session: str
    ordinal: int
    archive_id: str
    is_archived: bool
    asked: str
    answer: str


@dataclass(frozen=True, slots=True)
class HeldNotice:
    """One notice as the memory has it."""

    notice_id: str
    archive_ids: tuple[str, ...]


class Oracle:
    """Grows as clients talk."""

    def __init__(self) -> None:
        self.turns: dict[tuple[str, str], SeenTurn] = {}
        """By session and question."""

    def asks(self, session: str, ordinal: int, text: str) -> SeenTurn:
        """A client is about to ask; it fills the turn in."""
        assert (session, text) not in self.turns
        turn = self.turns[session, text] = SeenTurn(session, ordinal, text)
        return turn

    @property
    def sessions(self) -> set[str]:
        """Everybody who ever asked."""
        return {session for session, _ in self.turns}

    def false(self, held: Iterable[HeldTurn]) -> list[str]:
        """What is held and was not said."""
        return [
            f"not true: {turn} was held, {self._seen(turn)} was seen"
            for turn in held
            if not self._was_said(turn)
        ]

    def missing(self, held: Iterable[HeldTurn]) -> list[SeenTurn]:
        """What was answered and is not held."""
        there: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for turn in held:
            there[turn.session, turn.asked].add(turn.answer)
        return [
            seen
            for (session, asked), seen in self.turns.items()
            if seen.answer is not None and _spoken(seen.answer) not in there[session, asked]
        ]

    def repeated(self, held: Iterable[HeldTurn]) -> list[str]:
        """What is held more than once, though it was asked once."""
        counts = Counter((turn.session, turn.asked) for turn in held)
        return [
            f"twice: {place} is held {count} times"
            for place, count in counts.items()
            if count > 1 and place in self.turns and not self.turns[place].broken
        ]

    def disordered(self, held: Iterable[HeldTurn]) -> list[str]:
        """Sessions whose turns, each asked once, are numbered otherwise than they were asked."""
        numbered: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for turn in held:
            seen = self._seen(turn)
            if seen is not None and not seen.broken:
                numbered[turn.session].append((seen.ordinal, turn.ordinal))
        return [
            f"not in order: {session}: asked, held: {sorted(pairs)}"
            for session, pairs in numbered.items()
            if (places := [place for _, place in sorted(pairs)]) != sorted(set(places))
        ]

    def _seen(self, turn: HeldTurn) -> SeenTurn | None:
        return self.turns.get((turn.session, turn.asked))

    def _was_said(self, turn: HeldTurn) -> bool:
        seen = self._seen(turn)
        if seen is None:
            return False
        if seen.answer is not None and turn.answer == _spoken(seen.answer):
            return True
        return any(turn.answer.startswith(_spoken(piece)) for piece in seen.broken)


def _spoken(text: str) -> str:
    """As a transcript has it: without space around it."""
    return text.strip()


def told_twice(notices: Iterable[HeldNotice]) -> list[str]:
    """Turns that several notices tell of."""
    told = Counter(each for notice in notices for each in notice.archive_ids)
    return [f"twice: {key} is told of {count} times" for key, count in told.items() if count > 1]


def untold(held: Iterable[HeldTurn], notices: Iterable[HeldNotice]) -> list[str]:
    """Archived turns that no notice tells of."""
    told = {each for notice in notices for each in notice.archive_ids}
    return [
        f"not told: {turn.session} turn {turn.ordinal} is archived without a notice"
        for turn in held
        if turn.is_archived and turn.archive_id not in told
    ]
