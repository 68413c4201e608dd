"""From a question to archived turns.

Words are matched by stem, ranked by BM25 with this tenant's statistics; stop
words are dropped unless nothing else was asked.  Nothing in a query is syntax.
Age only decides between equal scores, in favour of the newer turn.
"""

from __future__ import annotations

import re
import unicodedata

from shepherd_memory.archive.protocol import Archive, SearchHit
from shepherd_memory.errors import InvalidParameterError

MAX_QUERY_CHARS = 4096
MAX_HITS = 100
MAX_WORDS = 128
"""Different words of one query that are looked up; the rest is ignored."""

_WORD = re.compile(r"[^\W_]+")
_STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can
    could did do does doing for from had has have having he her here hers him his how i if in into
    is it its just me more most my no nor not of off on once only or other our out over own same
    she should so some such than that the their them then there these they this those through to
    too under until up us very was we were what when where which while who whom why will with would
    you your d don ll m re s t ve""".split()  # noqa: SIM905  a paragraph reads better than a hundred quoted words
)


def words_of(query: str) -> list[str]:
    """The words to look up, each once, in order."""
    words = list(dict.fromkeys(_WORD.findall(unicodedata.normalize("NFC", query).lower())))
    telling = [word for word in words if word not in _STOP_WORDS]
    return (telling or words)[:MAX_WORDS]


def search(archive: Archive, query: str, k: int, session: str | None = None) -> list[SearchHit]:
    """The at most `k` archived turns of one tenant that fit best, best first; blocks.

    Raises:
        InvalidParameterError: the query is too long, or `k` is out of bounds.
    """
    if len(query) > MAX_QUERY_CHARS:
        raise InvalidParameterError("query", query, f"at most {MAX_QUERY_CHARS} characters")
    if not 1 <= k <= MAX_HITS:
        raise InvalidParameterError("k", k, f"an integer from 1 to {MAX_HITS}")
    words = words_of(query)
    return archive.search(words, session=session, limit=k) if words else []
