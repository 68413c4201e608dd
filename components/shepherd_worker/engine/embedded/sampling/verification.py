"""The rows of one work, sampled one after the other while its draft is right.

    row        tokens before it                  sampled    draft
    ---        ----------------                  -------    -----
    0          the sequence's own                a          a      accepted
    1          the sequence's own, a             b          b      accepted
    2          the sequence's own, a, b          x          c      the last
    3          is never looked at

Knows no tensors.  A sequence's guide moves with every sample that is taken.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

from shepherd_worker.engine.embedded.runner import Sample, SamplingError
from shepherd_worker.engine.embedded.sampling.steering import GuideError
from shepherd_worker.engine.embedded.scheduler import Work
from shepherd_worker.engine.embedded.sequence import Sequence


@dataclass(slots=True)
class Verification:
    """See the module's docstring; for works with at least one row."""

    work: Work
    first_row: int = 0
    """Which of a batch's rows is the work's first."""
    samples: list[Sample | SamplingError] = field(default_factory=list)

    @property
    def sequence(self) -> Sequence:
        """Whose rows these are; its own tokens are those before the draft."""
        return self.work.sequence

    @property
    def num_ahead(self) -> int:
        """Tokens of the draft that were accepted, and so precede the row that is next."""
        return len(self.samples)

    @property
    def row(self) -> int:
        """The row that is sampled next."""
        return self.first_row + self.num_ahead

    @property
    def token_ids(self) -> array[int]:
        """The tokens before the sample that is next; not to be changed."""
        tokens = self.sequence.token_ids
        return tokens + array("I", self.work.draft[: self.num_ahead]) if self.num_ahead else tokens

    def take(self, result: Sample | SamplingError) -> bool:
        """Note what was sampled; whether another row follows."""
        if isinstance(result, Sample) and self.sequence.guide is not None:
            try:
                complete = self.sequence.guide.accept(result.token_id)
            except GuideError as error:
                result = SamplingError(str(error))
            else:
                result = replace(result, completes=complete)
        self.samples.append(result)
        if isinstance(result, SamplingError) or result.completes:
            return False
        return self.work.draft[self.num_ahead - 1 : self.num_ahead] == (result.token_id,)
