"""What steers a sequence's answer beside its sampling settings: a grammar, and processors.

The shapes alone; `grammar.py` and `logits_processing` fill them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol


class GuideError(Exception):
    """The grammar cannot say what may follow; its sequence ends with an error."""


class Guide(Protocol):
    """One sequence's place in its grammar; moves with every token of the answer."""

    def allowed(self) -> bytes:
        """Which tokens may come next: token t is bit t % 8 of byte t // 8.

        End-of-sequence is among them where the text may end here.

        Raises:
            GuideError: the grammar became too complex to follow.
        """
        ...

    def accept(self, token_id: int) -> bool:
        """Move on by one token; whether the text is complete, so that nothing may follow.

        Raises:
            GuideError: the token is not one of `allowed`.
        """
        ...


class Processors(Protocol):
    """One sequence's logits processors, in a thread of their own."""

    timeout_s: float
    """How long they may take for one token."""

    def begin(self, input_ids: Sequence[int], logits: Any) -> Future[Any]:
        """Let them change a tensor `logits` [vocab_size], which is theirs until the result is there."""
        ...
