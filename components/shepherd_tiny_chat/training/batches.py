"""Conversations as batches of tokens, and how much each token matters.

A shard is made from the seed and its number alone, so that any number of
processes make the same data.  Conversations of like length share a batch: rows
are padded at their end by very little, no conversation sees another, and each
begins at position 0, as it does when it is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shepherd_events.chat_template import ChatTemplate, Conversation
from shepherd_tiny_chat.corpus.conversations import Talk, conversation
from shepherd_tiny_chat.training.tokenizer import IM_END, IM_START, MAX_POSITIONS, thinned

CONVERSATIONS_PER_SHARD = 2048
THINNED_SHARE = 0.6
"""Of the conversations, those whose words are cut into smaller pieces than when it is served:
so that copying any pieces is learned, and not only those that the words of the corpus have."""
_THINNED_ALIKE = 64
"""Conversations that share one thinned tokenizer."""
_MOST_THINNED = 0.25
"""Of the merges that a thinned tokenizer lacks; the least is none."""
PADDED_TO = 64
"""Batches are as long as a multiple of this, so that there are few shapes."""
ASSISTANT_WEIGHT, OTHER_WEIGHT = 1.0, 0.1
"""The assistant's words are what is learned; the others' teach the language."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens; both arrays are [rows, tokens]."""

    token_ids: NDArray[np.uint16]
    weights: NDArray[np.float16]
    """What predicting each token counts; 0 for padding."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One piece of the data, ready to train on."""

    batches: tuple[Batch, ...]
    digest: bytes
    """SHA-256 of its conversations' tokens in the order in which they were made."""


@dataclass(frozen=True, slots=True)
class ShardMaker:
    """Makes shards in whatever process it is sent to."""

    tokenizer_path: Path
    template_path: Path
    seed: int
    tokens_per_batch: int

    def __call__(self, number: int) -> Shard:
        """The shard of this number."""
        random = Random(f"{self.seed}/{number}")  # noqa: S311  no secret
        template = _template(self.template_path)
        texts = [
            render(template, conversation(random, "train")) for _ in range(CONVERSATIONS_PER_SHARD)
        ]
        rows = list(self._rows(random, texts))
        digest = hashlib.sha256(b"".join(row.token_ids.tobytes() for row in rows)).digest()
        batches = list(_batches(rows, self.tokens_per_batch))
        random.shuffle(batches)
        return Shard(tuple(batches), digest)

    def _rows(self, random: Random, texts: Sequence[str]) -> Iterator[_Row]:
        """Each text as tokens, in order: the last ones by thinned tokenizers."""
        whole = _tokenizer(self.tokenizer_path)
        num_whole = round(len(texts) * (1 - THINNED_SHARE))
        yield from _encoded(whole, texts[:num_whole])
        for begin in range(num_whole, len(texts), _THINNED_ALIKE):
            tokenizer = thinned(whole, random, random.uniform(0, _MOST_THINNED))
            yield from _encoded(tokenizer, texts[begin : begin + _THINNED_ALIKE])


@dataclass(frozen=True, slots=True)
class _Row:
    """One conversation: both arrays are [tokens]."""

    token_ids: NDArray[np.uint16]
    weights: NDArray[np.float16]


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[_Row]:
    weigh = Weigher(tokenizer)
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        token_ids = np.array(encoding.ids[:MAX_POSITIONS], dtype=np.uint16)
        yield _Row(token_ids, weigh(token_ids))


def _batches(rows: list[_Row], tokens_per_batch: int) -> Iterator[Batch]:
    rows = sorted(rows, key=lambda row: len(row.token_ids), reverse=True)
    while rows:
        length = -(-len(rows[0].token_ids) // PADDED_TO) * PADDED_TO
        count = max(1, tokens_per_batch // length)
        taken, rows = rows[:count], rows[count:]
        token_ids = np.zeros((len(taken), length), dtype=np.uint16)
        weights = np.zeros((len(taken), length), dtype=np.float16)
        for place, row in enumerate(taken):
            token_ids[place, : len(row.token_ids)] = row.token_ids
            weights[place, : len(row.token_ids)] = row.weights
        yield Batch(token_ids, weights)


class Weigher:
    """Tells the assistant's tokens from the others'."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._start = tokenizer.token_to_id(IM_START)
        self._end = tokenizer.token_to_id(IM_END)
        self._header = np.array(tokenizer.encode(f"{IM_START}assistant\n").ids, dtype=np.uint16)

    def __call__(self, row: NDArray[np.uint16]) -> NDArray[np.float16]:
        """A weight for every token; an answer's include its end."""
        weights = np.full(len(row), OTHER_WEIGHT, dtype=np.float16)
        ends = np.flatnonzero(row == self._end)
        for start in np.flatnonzero(row == self._start):
            begin = start + len(self._header)
            if np.array_equal(row[start:begin], self._header):
                place = np.searchsorted(ends, begin)
                end = ends[place] + 1 if place < len(ends) else len(row)
                weights[begin:end] = ASSISTANT_WEIGHT
        return weights


def render(template: ChatTemplate, talk: Talk, *, answer: bool = False) -> str:
    """A conversation as text; with `answer` up to where the assistant speaks."""
    return template.render(Conversation(talk.messages, answer, talk.tools))


@cache
def _template(path: Path) -> ChatTemplate:
    return ChatTemplate(path.read_text(), {})


@cache
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
