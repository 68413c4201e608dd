"""How well a text meets a question, token by token.

Each token of the question counts as much as the nearest token of the text is
like it.  How much a token tells comes from the texts themselves: one that
stands in all that were found parts none of them.  Pure arithmetic; who made
the vectors is not known here.

Source: Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search
via Contextualized Late Interaction over BERT" (MaxSim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shepherd_memory.retrieval.corpus import Integers
from shepherd_memory.retrieval.dense import Matrix
from shepherd_memory.retrieval.lexical import Floats


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as a model read it."""

    ids: Integers
    """`[num_tokens]`, without the marks that the tokenizer puts around a text."""
    vectors: Matrix
    """`[num_tokens, dimensions]`, each of length 1."""


def late_interaction(asked: Tokens, texts: Sequence[Tokens]) -> list[float]:
    """The mean cosine of the question's tokens and their nearest in each text, rare ones first.

    From -1 to 1; 0 for a text, or of a question, without tokens.
    """
    weights = _rarity(asked, texts)
    total = max(float(weights.sum()), 1e-9)
    return [
        float(weights @ (asked.vectors @ text.vectors.T).max(axis=1)) / total
        if len(text.ids)
        else 0.0
        for text in texts
    ]


def _rarity(asked: Tokens, texts: Sequence[Tokens]) -> Floats:
    """BM25's inverse document frequency of each asked token, over these texts."""
    held = np.zeros(len(asked.ids))
    for text in texts:
        held += np.isin(asked.ids, text.ids)
    rarity: Floats = np.log1p((len(texts) - held + 0.5) / (held + 0.5))
    return rarity
