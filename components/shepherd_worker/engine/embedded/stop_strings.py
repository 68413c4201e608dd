"""Stop strings: found in the text as it grows, wherever the tokens split it.

Only sequences that have stop strings are turned into text at all.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from shepherd_worker.errors import EngineFailedError


def load_tokenizer(file: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        EngineFailedError: it cannot be read.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise EngineFailedError(f"{file} is not a tokenizer: {error}") from error


class StopStrings:
    """Watches one sequence's output for the first of its stop strings."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._stream = DecodeStream(skip_special_tokens=False)
        self._tail = ""
        self._tail_chars = max(map(len, stops)) - 1

    def push(self, token_id: int) -> str | None:
        """Take the next output token; the stop string that it completed, if any.

        Where one token completes several, the one that begins first is told.
        """
        piece = self._stream.step(self._tokenizer, token_id)
        if not piece:
            return None
        text = self._tail + piece
        hits = [(at, stop) for stop in self._stops if (at := self._find(text, stop)) >= 0]
        self._tail = text[-self._tail_chars :] if self._tail_chars else ""
        return min(hits)[1] if hits else None

    def _find(self, text: str, stop: str) -> int:
        """Where `stop` begins, if its last character is in the newest piece."""
        return text.find(stop, max(0, len(self._tail) - len(stop) + 1))
