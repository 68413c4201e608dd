"""Tokens to messages: exact spans, learned from the chat template."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenizerAssets:
    """The files that say how text becomes tokens, by name."""

    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Message:
    """One message and the tokens it lies in."""

    role: str
    text: str
    start: int
    end: int


class TranscriptReader:
    """Reads one model's token sequences as conversations."""

    def __init__(self, assets: TokenizerAssets) -> None:
        raise NotImplementedError

    def read(self, token_ids: array[int]) -> tuple[Message, ...]:
        """Messages whose spans tile the sequence."""
        raise NotImplementedError
