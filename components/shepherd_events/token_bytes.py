"""Token ids to the bytes they stand for, exactly, one token at a time.

A tokenizer's own `decode` joins, strips and replaces; here every token has its
bytes and nothing else, so that positions in text are positions in tokens, and a
character whose bytes are split over tokens is complete where its last byte is.

Added tokens (`<|im_end|>`) are kept apart from text that merely spells them: a
token's *mark* is eight bytes that no valid UTF-8 contains, 0xFF and seven
digits 0xF8..0xFE.  Ordinary tokens never contain bytes above 0xF7.

    tokenizer.json's decoder          bytes of an ordinary token
    -------------------------------   ------------------------------------
    ByteLevel                         each character stands for one byte
    Replace, Metaspace, ByteFallback  UTF-8, with "▁" a space, "<0xE2>" a byte
    anything else                     not known: `TokenBytes.of` gives None
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer

MARK_SIZE = 8
_DIGITS = bytes(range(0xF8, 0xFF))
_NEVER_TEXT = 0xC0
"""Stands for bytes above 0xF7 in ordinary tokens: as invalid as they are."""
_CLEAN = bytes(range(0xF8)) + bytes([_NEVER_TEXT] * 8)
_MARK = re.compile(rb"\xff([\xf8-\xfe]{7})")
_CUT_MARK = re.compile(rb"\xff[\xf8-\xfe]{0,6}\Z")
_MIN_PLACEHOLDERS = 8
_PLACEHOLDERS = re.compile(rb"(\xff[\xf8-\xfe]{7})\1{%d,}" % (_MIN_PLACEHOLDERS - 1))
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"
_PIECEWISE = {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}


def mark(token_id: int) -> bytes:
    """The bytes that stand for an added token; ids below 7**7."""
    digits = bytearray()
    for _ in range(MARK_SIZE - 1):
        token_id, digit = divmod(token_id, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return b"\xff" + bytes(digits)


def first_mark(marked: bytes) -> int:
    """Where the first mark begins, or -1."""
    return marked.find(b"\xff")


def without_cut_mark(marked: bytes) -> bytes:
    """The bytes without a mark that was cut in two at their end."""
    return _CUT_MARK.sub(b"", marked)


def without_mark_end(marked: bytes) -> bytes:
    """The bytes without the rest of a mark that was cut in two at their begin."""
    return marked.lstrip(_DIGITS)


def up_to_last_mark(marked: bytes) -> bytes:
    """The bytes up to the end of their last mark; none where there is no mark."""
    last = marked.rfind(b"\xff")
    return marked[: last + MARK_SIZE] if last >= 0 else b""


def with_one_placeholder(marked: bytes) -> bytes:
    """The bytes with one token in place of the many that stand for one image or sound.

    Processors put as many of the same added token into a prompt as the medium has positions;
    the template wrote one.
    """
    return _PLACEHOLDERS.sub(rb"\1", marked)


def without_marks(marked: bytes) -> bytes:
    """The bytes of ordinary tokens alone."""
    return _MARK.sub(b"", marked)


class TokenBytes(dict[int, bytes]):
    """Bytes by token id, filled on first use; reading is safe from any thread."""

    def __init__(self, tokenizer: Tokenizer, added: dict[int, str], *, byte_level: bool) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._added = added
        self._byte_level = byte_level

    @classmethod
    def of(cls, tokenizer: Tokenizer, decoder: dict[str, Any] | None) -> TokenBytes | None:
        """The table of a tokenizer, or None when `decoder` (as in its file) is not a known one."""
        steps = list(_steps(decoder))
        kinds = {step["type"] for step in steps}
        added = {
            token_id: token.content
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        if "ByteLevel" in kinds:
            return cls(tokenizer, added, byte_level=True)
        if kinds and kinds <= _PIECEWISE and all(map(_replaces_space_alone, steps)):
            return cls(tokenizer, added, byte_level=False)
        return None

    def __missing__(self, token_id: int) -> bytes:
        marked = self._bytes_of(token_id)
        self[token_id] = marked
        return marked

    def text(self, marked: bytes) -> str:
        """The text of marked bytes, added tokens spelled out; U+FFFD where it is not UTF-8."""
        return self.spelled(marked).decode("utf-8", errors="replace")

    def spelled(self, marked: bytes) -> bytes:
        """The bytes with each mark replaced by its token's text."""
        if first_mark(marked) < 0:
            return marked
        return _MARK.sub(self._spell, marked)

    def stream(self) -> TokenStream:
        """A detokeniser for one growing sequence."""
        return TokenStream(self)

    def _spell(self, found: re.Match[bytes]) -> bytes:
        token_id = 0
        for digit in reversed(found[1]):
            token_id = token_id * len(_DIGITS) + digit - _DIGITS[0]
        return self._added[token_id].encode()

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return mark(token_id)
        token: str | None = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return _byte_level(token).translate(_CLEAN)
        if single := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(single[1]).translate(_CLEAN)
        return token.replace(_SPACE, " ").encode()


class TokenStream:
    """Tokens in, text out: each character appears once, as soon as it is complete."""

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; may be empty."""
        return self._utf8.decode(b"".join(self._table.spelled(self._table[i]) for i in token_ids))

    def finish(self) -> str:
        """U+FFFD for a character that was begun and never completed, else nothing."""
        return self._utf8.decode(b"", final=True)


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _replaces_space_alone(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        return bool(step["pattern"] == {"String": _SPACE} and step["content"] == " ")
    return bool(step.get("replacement", _SPACE) == _SPACE)


def _byte_level(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the rest are moved above 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(moved)}


_BYTE_OF = _byte_alphabet()
