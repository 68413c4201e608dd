"""A small table of word vectors, averaged over a text; no model runs.

Source: WordLlama (github.com/dleemiller/WordLlama).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import wordllama

from shepherd_memory.embedding.protocol import WORD_WEIGHT
from shepherd_memory.retrieval.dense import Matrix, normalised

DIMENSIONS = 256


class WordVectors:
    """`Embedder` by WordLlama; takes 17 MB and half a second to load."""

    dimensions = DIMENSIONS
    weight = WORD_WEIGHT

    def __init__(self) -> None:
        # The package finds the tokenizer that it ships only where it would have put a download.
        shipped = Path(wordllama.__file__).parent
        self._table = wordllama.WordLlama.load(
            dim=DIMENSIONS, cache_dir=shipped, disable_download=True
        )
        self.name = f"wordllama {version('wordllama')} {DIMENSIONS}"

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        """See `Embedder.embed`."""
        del is_query
        vectors: Matrix = self._table.embed(list(texts), norm=False)
        return normalised(vectors)
