"""Turns to measure the memory with."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.eviction import Placement
from shepherd_memory.turns import Said, archive_id_of, digest_of

WORDS_PER_TURN = 45
_VOCABULARY = 20_000


def turn_of(
    tenant: str, session: str, ordinal: int, said: Iterable[tuple[str, str]], started_unix_ns: int
) -> StoredTurn:
    """A live turn."""
    messages = tuple(Said(role, text) for role, text in said)
    digest = digest_of(messages)
    return StoredTurn(
        archive_id=archive_id_of(tenant, session, ordinal, digest),
        session=session,
        ordinal=ordinal,
        digest=digest,
        messages=messages,
        placement=Placement(StreamId("w"), Position(1, 1), started_unix_ns, array("Q", [ordinal])),
        request_id="r",
        started_unix_ns=started_unix_ns,
    )


def spoken(number: int, *, seed: int = 1, turns_per_session: int = 20) -> Iterator[StoredTurn]:
    """Turns of 45 words whose frequencies fall as those of a language do (Zipf)."""
    chance = random.Random(seed)  # noqa: S311  not for secrets
    for place in range(number):
        words = [word_of(chance) for _ in range(WORDS_PER_TURN)]
        half = WORDS_PER_TURN // 3
        yield turn_of(
            "t",
            f"s{place // turns_per_session}",
            1 + place % turns_per_session,
            [("user", " ".join(words[:half])), ("assistant", " ".join(words[half:]))],
            1_700_000_000 * 10**9 + place * 10**9,
        )


def word_of(chance: random.Random) -> str:
    """A word of the vocabulary, the commoner the likelier."""
    return f"w{int(_VOCABULARY ** chance.random())}"


def archive_all(archive: Archive, turns: Sequence[StoredTurn], *, batch: int = 100) -> None:
    """Keep and archive turns, so many to a transaction."""
    for first in range(0, len(turns), batch):
        with archive.writing() as writer:
            for turn in turns[first : first + batch]:
                writer.insert(turn)
                writer.archive(turn.archive_id, turn.started_unix_ns)
