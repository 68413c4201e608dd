"""What clients saw, and whether a memory holds just that; without clocks and I/O.

told      a turn that a client saw answered is in the memory, word for word; one whose worker was
          killed within moments may not have been told of: those are counted
true      whatever is in the memory was asked, and was answered so; where something is
          broken, a gateway or a client asks again, and an attempt that nobody saw may
          be there as well: those are counted, and there are none of calm times
in order  the turns of a session are numbered in the order in which they were answered
once      no turn is there twice, but for such attempts; no archived turn is told of twice

A session asks nothing twice by itself, so that its turns are known by their questions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

TOLD_WITHIN_S = 3.0
"""From an answer's end until the broker has what is told of it, on a busy machine."""


@dataclass(slots=True)
class SeenTurn:
    """One message of a client, with what came back."""

    session: str
    ordinal: int
    """From 1."""
    asked: str
    answer: str | None = None
    """None while nobody has answered."""
    answered_s: float = 0.0
    """When the answer's end was seen, by a clock that only goes forward."""
    is_calm: bool = False
    """Nothing was broken meanwhile."""
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

    def asks(self, session: str, ordinal: int, text: str, *, is_calm: bool = False) -> SeenTurn:
        """A client is about to ask; it fills the turn in."""
        assert (session, text) not in self.turns
        turn = self.turns[session, text] = SeenTurn(session, ordinal, text, is_calm=is_calm)
        return turn

    @property
    def sessions(self) -> set[str]:
        """Everybody who ever asked."""
        return {session for session, _ in self.turns}

    def false(self, held: Iterable[HeldTurn]) -> list[str]:
        """What is held and was never asked, or, of calm times, not answered so."""
        return [
            f"not true: {turn} was held, {seen} was seen"
            for turn in held
            if (seen := self._seen(turn)) is None or (seen.is_calm and not _is_of(turn, seen))
        ]

    def unseen(self, held: Iterable[HeldTurn]) -> int:
        """How many attempts are held whose answers no client saw to their ends."""
        seen = [(turn, self._seen(turn)) for turn in held]
        return sum(found is not None and not _is_of(turn, found) for turn, found in seen)

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
        """What is held more than once in the same words, though it was asked once."""
        counts = Counter((turn.session, turn.asked, turn.answer) for turn in held)
        return [
            f"twice: {session} {asked!r} is held {count} times"
            for (session, asked, _), count in counts.items()
            if count > 1 and not ((seen := self.turns.get((session, asked))) and seen.broken)
        ]

    def disordered(self, held: Iterable[HeldTurn]) -> list[str]:
        """Sessions whose turns, each asked once, are numbered otherwise than they were asked."""
        numbered: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for turn in held:
            seen = self._seen(turn)
            if seen is not None and not seen.broken and _is_of(turn, seen):
                numbered[turn.session].append((seen.ordinal, turn.ordinal))
        return [
            f"not in order: {session}: asked, held: {sorted(pairs)}"
            for session, pairs in numbered.items()
            if (places := [place for _, place in sorted(pairs)]) != sorted(set(places))
        ]

    def _seen(self, turn: HeldTurn) -> SeenTurn | None:
        return self.turns.get((turn.session, turn.asked))


def was_cut_short(turn: SeenTurn, killed_s: Iterable[float]) -> bool:
    """Whether the worker was killed before it can be relied upon to have told of the turn."""
    return any(0 <= at_s - turn.answered_s <= TOLD_WITHIN_S for at_s in killed_s)


def _is_of(turn: HeldTurn, seen: SeenTurn) -> bool:
    """Whether a turn has the answer that was seen."""
    return seen.answer is not None and turn.answer == _spoken(seen.answer)


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
