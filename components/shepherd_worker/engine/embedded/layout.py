"""What a model needs to know of one step's work; pure state, and small enough to be sent.

A *segment* is a run of consecutive tokens of one sequence.  Everything that a
device computes with is derived from segments alone, so that another process
that holds an equal model and an equal cache can compute the same step.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shepherd_worker.engine.embedded.scheduler import Work
from shepherd_worker.image import ImageInput


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, start + len(token_ids)) of a sequence."""

    token_ids: array[int]
    """Typecode "I"; at least one."""
    start: int
    """Tokens of the sequence before them, whose KV is in the cache."""
    block_ids: Sequence[int]
    """The block table, up to the block of the last token at least; not to be kept."""
    num_logits: int
    """How many of the last tokens have their logits computed; 0 for an unfinished prompt."""
    images: Sequence[ImageInput] = ()
    """All of the sequence's, wherever they stand in it."""

    @property
    def num_seen(self) -> int:
        """Tokens that the segment's last token sees, itself included."""
        return self.start + len(self.token_ids)

    @property
    def is_decode(self) -> bool:
        """One token, after which another is sampled."""
        return len(self.token_ids) == self.num_logits == 1


def lay_out(work: Iterable[Work]) -> list[Segment]:
    """The segments of a plan's work, in its order."""
    return [_segment(item) for item in work]


def _segment(work: Work) -> Segment:
    return Segment(
        token_ids=work.token_ids,
        start=work.sequence.num_computed,
        block_ids=work.sequence.block_ids,
        num_logits=work.num_samples,
        images=work.sequence.request.images,
    )
