"""What a model must do to take part in searches.

Both block and are called from several threads.  An embedder's name says all
that its vectors depend on: under another name all turns are embedded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shepherd_memory.analysis import day_in_words
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.retrieval.dense import Matrix

SENTENCE_WEIGHT = 1.0
"""`Embedder.weight` of a model that reads whole sentences: its vectors know what words do not."""
WORD_WEIGHT = 0.4
"""`Embedder.weight` where words are averaged: they know little but the words once more."""
MAX_TEXT_CHARS = 8192
"""Of one turn, as a model reads it."""


class Embedder(Protocol):
    """Gives texts that mean alike vectors that are near."""

    @property
    def name(self) -> str:
        """Kind, model and whatever else another vector would come from."""
        ...

    @property
    def dimensions(self) -> int:
        """Of each vector."""
        ...

    @property
    def weight(self) -> float:
        """What the nearest turn's vector counts beside the best turn's words, which count 1."""
        ...

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        """One vector of length 1 for each text; `[len(texts), dimensions]`.

        Raises:
            ModelUnavailableError: the model cannot answer just now.
        """
        ...


class Reranker(Protocol):
    """Reads the best texts once more for a question, which is slow and exact."""

    def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """How well each text answers; higher is better, on any scale.

        Raises:
            ModelUnavailableError: the model cannot answer just now.
        """
        ...


def text_of(turn: StoredTurn) -> str:
    """A turn as a model reads it: the day, then what was said."""
    said = "\n".join(message.text for message in turn.messages)
    day = day_in_words(turn.started_unix_ns)
    return (f"{day}\n{said}" if day else said)[:MAX_TEXT_CHARS]
