"""In how many turns common words stand, remembered while an archive hardly grows.

Counting a word of half a million turns takes tens of milliseconds, and every
question has such words.  Counts of words that stand in `COMMON` turns or more
are taken again when the archive has grown by a hundredth: until then a weight
is off by less than a hundredth, which changes no order that means anything.
Rare words, and all words of a small archive, are counted each time.  Knows no
store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

COMMON = 10_000
"""Turns; a smaller archive has no common words."""
_GROWTH = 1.01

Count = Callable[[Iterable[str]], dict[str, int]]
"""From terms to the number of documents each stands in; see `SearchReader.frequencies`."""


@dataclass(slots=True)
class CommonWords:
    """Of one tenant, whose documents only become more; any thread, as none reads and changes at once."""

    num_documents: int = 0
    """When what is remembered was counted."""
    counts: dict[str, int] = field(default_factory=dict)

    def frequencies(self, terms: Sequence[str], num_documents: int, count: Count) -> dict[str, int]:
        """In how many documents each term stands; only terms that stand in one."""
        if num_documents > _GROWTH * self.num_documents:
            self.num_documents, self.counts = num_documents, {}
        counts = self.counts
        found = {term: counts[term] for term in terms if term in counts}
        counted = count(term for term in terms if term not in found)
        counts.update({term: number for term, number in counted.items() if number >= COMMON})
        return found | counted
