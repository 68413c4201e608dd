"""Tokens to messages: exact spans, learned from the chat template.

A reader is built once per model and answers from any thread.  The spans of the
messages of a sequence tile it: markers belong to the message that they open or
close, and a token that two messages share belongs to the later one.  Texts are
exactly what stands between the markers, but for the run of equal placeholder
tokens of an image, which is written once.  A sequence whose template is unknown or
ambiguous is one message of role "raw": never nothing, never a wrong role.

    token_bytes.py          ids -> bytes, added tokens marked
    chat_template.py        conversations -> text
    template_probes.py      the conversations to learn from
    grammar_learning.py     what the template puts between contents
    reasoning_edges.py      reasoning that the template does not show
    transcript_grammar.py   bytes -> parts, by what was learned
"""

from __future__ import annotations

import json
import logging
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from tokenizers import Tokenizer

from shepherd_events.chat_template import ChatTemplate, ChatTemplateError, Conversation
from shepherd_events.grammar_learning import learn
from shepherd_events.token_bytes import TokenBytes, TokenStream, mark, with_one_placeholder
from shepherd_events.tokenizer_assets import TOKENIZER, TokenizerAssets, TokenizerNotFoundError
from shepherd_events.transcript_grammar import RAW, Grammar

__all__ = [
    "Message",
    "TokenizerAssets",
    "TokenizerNotFoundError",
    "TranscriptReader",
    "count_system_tokens",
    "count_user_messages",
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """One message and the tokens it lies in."""

    role: str
    """"system", "user", "reasoning", "assistant", "tool"; "raw" where the template is not understood.

    Reasoning is what the assistant thought before its next message.
    """
    text: str
    """The content, without markers."""
    start: int
    """The first token of its opening marker."""
    end: int
    """After the last token of its closing marker."""


def count_user_messages(messages: Iterable[Message]) -> int:
    """How many of a sequence's messages are the user's; 0 for raw text."""
    return sum(message.role == "user" for message in messages)


def count_system_tokens(messages: Iterable[Message]) -> int:
    """Tokens before user or assistant first speak: system prompt and tool definitions.

    0 where neither speaks: text of an unknown template may be anything.
    """
    return next((m.start for m in messages if m.role in {"user", "assistant"}), 0)


class TranscriptReader:
    """Reads one model's token sequences as conversations; safe from any thread."""

    def __init__(self, assets: TokenizerAssets) -> None:
        self._tokenizer = _load(assets)
        self._bytes = TokenBytes.of(self._tokenizer, _decoder(assets))
        self._grammar = None if self._bytes is None else self._learn(assets, self._bytes)
        if self._grammar is None:
            _logger.warning("chat template not understood: conversations stay raw text")

    @property
    def understands_template(self) -> bool:
        """False: every sequence reads as one raw message."""
        return self._grammar is not None

    def read(self, token_ids: array[int]) -> tuple[Message, ...]:
        """Messages whose spans tile the sequence; none for no tokens.

        The last one may be unfinished: an answer that was cut, or the empty
        answer behind a generation prompt.
        """
        if not token_ids:
            return ()
        if self._grammar is None or self._bytes is None:
            return (Message(RAW, self.decode(token_ids), 0, len(token_ids)),)
        pieces = [self._bytes[token_id] for token_id in token_ids]
        return _messages(self._grammar, self._bytes, pieces)

    def decode(self, token_ids: array[int]) -> str:
        """The text of a sequence, special tokens spelled out."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def stream(self) -> TokenStream:
        """A detokeniser for one sequence that grows, for one thread.

        Raises:
            ValueError: the bytes of this tokenizer's tokens are not known.
        """
        if self._bytes is None:
            raise ValueError("the tokenizer's decoder is neither byte-level nor SentencePiece-like")
        return self._bytes.stream()

    def _learn(self, assets: TokenizerAssets, table: TokenBytes) -> Grammar | None:
        special_tokens = assets.special_tokens()
        eos = self._tokenizer.token_to_id(special_tokens.get("eos_token", ""))
        eos_ids = assets.eos_token_ids() | ({eos} if eos is not None else set())
        renders = []
        for text in assets.chat_templates():
            try:
                template = ChatTemplate(text, special_tokens)
            except ChatTemplateError:
                _logger.exception("chat template left out")
                continue
            renders.append(partial(self._render, template, table))
        eos_marks = [mark(token_id) for token_id in sorted(eos_ids)]
        return learn(renders, eos_marks, partial(self._spelled, table))

    def _render(
        self, template: ChatTemplate, table: TokenBytes, conversation: Conversation
    ) -> bytes | None:
        try:
            text = template.render(conversation)
        except ChatTemplateError:
            return None
        token_ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return b"".join(table[token_id] for token_id in token_ids)

    def _spelled(self, table: TokenBytes, text: str) -> bytes:
        """The marked bytes of a text that does not stand at the beginning."""
        token_ids = self._tokenizer.encode(f"x{text}", add_special_tokens=False).ids
        return b"".join(table[token_id] for token_id in token_ids).partition(b"x")[2]


def _messages(grammar: Grammar, table: TokenBytes, pieces: list[bytes]) -> tuple[Message, ...]:
    marked = b"".join(pieces)
    parts = grammar.parse(marked)
    ends = list(accumulate(map(len, pieces)))
    starts = [0, *(bisect_right(ends, part.start) for part in parts[1:]), len(pieces)]
    messages = (
        Message(part.role, _text(table, marked[part.text_start : part.text_end]), start, end)
        for part, (start, end) in zip(parts, pairwise(starts), strict=True)
    )
    return tuple(message for message in messages if message.text or message.start < message.end)


def _text(table: TokenBytes, marked: bytes) -> str:
    return table.text(with_one_placeholder(marked))


def _load(assets: TokenizerAssets) -> Tokenizer:
    if TOKENIZER not in assets.files:
        raise TokenizerNotFoundError("the received tokenizer")
    tokenizer = Tokenizer.from_str(assets.files[TOKENIZER])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _decoder(assets: TokenizerAssets) -> dict[str, Any] | None:
    decoder: dict[str, Any] | None = json.loads(assets.files[TOKENIZER]).get("decoder")
    return decoder
