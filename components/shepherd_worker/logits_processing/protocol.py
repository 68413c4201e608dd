"""What a logits processor is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class LogitsProcessor(Protocol):
    """Belongs to one request, so it may keep state; called once per token of the answer, in order."""

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        """Change the logits [vocab_size] of the token after `input_ids`, in place.

        `input_ids` is the prompt and the answer so far.  What is raised here ends
        this request with an error, and so does a call that takes too long.
        """
        ...
