"""Where a tenant's archived turns stand beside one another.

Turns are in *places*, sorted by session, ordinal and document, so that the
turns around one are its neighbours in the arrays.  A corpus never changes:
`grown` makes the next one, while searches go on with the last.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shepherd_memory.archive.records import STORED_MEMORY_SESSION, Document

Integers = npt.NDArray[np.int64]

_ORDINAL_BITS = 32
_MAX_ORDINAL = (1 << _ORDINAL_BITS) - 1


def _nothing() -> Integers:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents of one tenant as of one moment; arrays are `[num_documents]`, by place."""

    sessions: dict[str, int] = field(default_factory=dict)
    """Numbers of sessions; shared with the corpora that grow from this one."""
    keys: Integers = field(default_factory=_nothing)
    """Session number and ordinal in one; ascending."""
    docs: Integers = field(default_factory=_nothing)
    started_unix_ns: Integers = field(default_factory=_nothing)
    num_terms: Integers = field(default_factory=_nothing)
    mean_terms: float = 1.0
    """Terms per document."""
    places: Integers = field(default_factory=lambda: np.full(1, -1, dtype=np.int64))
    """By document number; -1 where there is none."""

    def __len__(self) -> int:
        return len(self.docs)

    @property
    def last_doc(self) -> int:
        """The greatest document number."""
        return len(self.places) - 1

    def grown(self, documents: Iterable[Document]) -> Corpus:
        """The corpus with more documents, whose numbers are greater than all before."""
        # Four numbers of each are kept, one after another: a million records would be 300 MB.
        new = array("q")
        for each in documents:
            new.extend((self._key(each), each.doc, each.started_unix_ns, each.num_terms))
        if not new:
            return self
        rows = np.frombuffer(new, np.int64).reshape(-1, 4)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        at = np.searchsorted(self.keys, rows[:, 0], side="right")
        keys, docs, started_unix_ns, num_terms = (
            np.insert(old, at, column)
            for old, column in zip(
                (self.keys, self.docs, self.started_unix_ns, self.num_terms), rows.T, strict=True
            )
        )
        places = np.full(int(docs.max()) + 1, -1, dtype=np.int64)
        places[docs] = np.arange(len(docs))
        return Corpus(
            sessions=self.sessions,
            keys=keys,
            docs=docs,
            started_unix_ns=started_unix_ns,
            num_terms=num_terms,
            mean_terms=float(num_terms.mean()),
            places=places,
        )

    def in_session(self, session: str) -> tuple[int, int]:
        """First place of a session, and the place after its last."""
        number = self.sessions.get(session)
        if number is None:
            return 0, 0
        bounds = np.array([number << _ORDINAL_BITS, (number + 1) << _ORDINAL_BITS])
        first, end = np.searchsorted(self.keys, bounds)
        return int(first), int(end)

    def are_neighbours(self, places: Integers, others: Integers) -> npt.NDArray[np.bool_]:
        """Whether each pair is of one conversation, neither a summary nor two versions of one turn."""
        one, other = self.keys[places], self.keys[others]
        same = (one >> _ORDINAL_BITS) == (other >> _ORDINAL_BITS)
        both: npt.NDArray[np.bool_] = (
            same & (one != other) & (np.minimum(one, other) & _MAX_ORDINAL > 0)
        )
        return both

    def beside(self, place: int, step: int) -> int | None:
        """The document of the turn before (-1) or after (1) a place in its conversation."""
        other = place + step
        if not 0 <= other < len(self):
            return None
        pair = np.array([place]), np.array([other])
        return int(self.docs[other]) if self.are_neighbours(*pair)[0] else None

    def _key(self, document: Document) -> int:
        number = self.sessions.setdefault(document.session, len(self.sessions))
        ordinal = 0 if document.session == STORED_MEMORY_SESSION else document.ordinal
        return (number << _ORDINAL_BITS) + min(max(ordinal, 0), _MAX_ORDINAL)
