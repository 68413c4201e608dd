"""Conversations as batches of tokens, and how much each token matters.

A shard is made from the seed and its number alone, so that any number of
processes make the same data.  Conversations of like length share a batch: rows
are padded at their end by very little, no conversation sees another, and each
begins at position 0, as it does when it is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shepherd_events.chat_template import ChatTemplate, Conversation
from shepherd_tiny_chat.corpus.conversations import Talk, conversation
from shepherd_tiny_chat.training.tokenizer import IM_END, IM_START, MAX_POSITIONS

CONVERSATIONS_PER_SHARD = 2048
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
        tokenizer = _tokenizer(self.tokenizer_path)
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        rows = [np.array(each.ids[:MAX_POSITIONS], dtype=np.uint16) for each in encoded]
        digest = hashlib.sha256(b"".join(row.tobytes() for row in rows)).digest()
        batches = list(self._batches(rows, Weigher(tokenizer)))
        random.shuffle(batches)
        return Shard(tuple(batches), digest)

    def _batches(self, rows: list[NDArray[np.uint16]], weigh: Weigher) -> Iterator[Batch]:
        rows = sorted(rows, key=len, reverse=True)
        while rows:
            length = -(-len(rows[0]) // PADDED_TO) * PADDED_TO
            count = max(1, self.tokens_per_batch // length)
            taken, rows = rows[:count], rows[count:]
            token_ids = np.zeros((len(taken), length), dtype=np.uint16)
            weights = np.zeros((len(taken), length), dtype=np.float16)
            for place, row in enumerate(taken):
                token_ids[place, : len(row)] = row
                weights[place, : len(row)] = weigh(row)
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
