"""Gives archived turns the vectors that they lack, a few at a time.

Turns are archived without waiting for a model.  Whatever has no vector of this
model, because it is new, because the model was down or because it is another
than before, gets one afterwards, oldest first.
"""

from __future__ import annotations

from shepherd_memory.archive.protocol import Archive
from shepherd_memory.archive.records import StoredVectors
from shepherd_memory.embedding.protocol import Embedder, text_of

BATCH = 32
"""Turns that are embedded at once."""


def embed_missing(archive: Archive, embedder: Embedder, *, limit: int = BATCH) -> int:
    """Embed at most `limit` turns and keep their vectors; returns how many.  Writer's thread alone.

    Raises:
        ModelUnavailableError: the model cannot answer; nothing was changed.
    """
    vectors = missing_vectors(archive, embedder, after=0, limit=limit)
    if vectors:
        with archive.writing() as writer:
            writer.put_vectors(embedder.name, vectors)
    return len(vectors)


def missing_vectors(
    archive: Archive, embedder: Embedder, *, after: int, limit: int
) -> list[StoredVectors]:
    """The vectors of at most `limit` documents behind `after` that lack them; may take long.

    Raises:
        ModelUnavailableError: the model cannot answer.
    """
    lacking = archive.without_vectors(embedder.name, after=after, limit=limit)
    if not lacking:
        return []
    rows = embedder.embed([text_of(turn) for _, turn in lacking], is_query=False)
    return [
        StoredVectors(doc, row.astype("float32").tobytes())
        for (doc, _), row in zip(lacking, rows, strict=True)
    ]
