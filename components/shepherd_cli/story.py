"""What is said in `shepherd demo`, and how one sees that it went as it should.

Ada tells three things about herself and leaves.  Others talk to the same model,
whose caches have no room for all of them, until what Ada said is evicted from every
worker.  She comes back and asks.  Knows nothing of processes and terminals.
"""

from __future__ import annotations

from typing import Final

from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE

ADA: Final = "ada"
FACTS: Final = (
    "My cat is called Tibbles.",
    "I live in Lisbon.",
    "The code of my bike lock is 4071.",
)
GOODBYE: Final = "Thank you!"
QUESTION: Final = "What is the name of my cat?"
ANSWER: Final = "Tibbles"
"""What the answer must hold."""

GUESTS: Final = ("ben", "cleo", "dan", "eve")
TURNS_EACH: Final = 5


def questions_of(guest: str) -> tuple[str, ...]:
    """What a guest asks; no two ask the same."""
    begin = GUESTS.index(guest) * TURNS_EACH
    return tuple(question for question, _ in KNOWLEDGE[begin : begin + TURNS_EACH])


def is_right(answer: str) -> bool:
    """Whether an answer to `QUESTION` says what Ada told."""
    return ANSWER.lower() in answer.lower()
