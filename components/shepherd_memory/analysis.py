"""From text to the terms that are counted: one analysis for documents and questions.

    "Caroline's cafés were running"   ->   carolin  cafe  were  run

Terms are case folded, without accents and stemmed as English; they contain no
blank, so that a store which splits at blanks counts exactly these.  Han, kana
and Thai, which are written without blanks, become pairs of characters.  Stop
words are indexed, but asked for only where a question has nothing else.
Knows no store and no ranking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, pairwise
from threading import Lock

import Stemmer

from shepherd_memory.turns import Said

MAX_QUERY_TERMS = 128
"""Different terms of one query that are looked up; the rest is ignored."""

_MAX_TERM_CHARS = 64
_DAY_NS = 24 * 3600 * 10**9
_EARLIEST_DATE_NS = 946_684_800 * 10**9
"""The year 2000: an earlier time is a counter or nothing, not a date."""

_WORD = re.compile(r"(?<![^\W_]['\u2019])[^\W_]+")
"""What follows an apostrophe within a word tells nothing: Caroline's, don't."""
_ACCENTS = re.compile(r"[\u0300-\u036f]+")
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_STOP_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being but by can
    could did do does doing for from had has have having he her here hers him his how i if in into
    is it its just me more most my no nor not of off on once only or other our out over own same
    she should so some such than that the their them then there these they this those through to
    too under until up us very was we were what when where which while who whom why will with would
    you your""".split()  # noqa: SIM905  a paragraph reads better than a hundred quoted words
)

_stemmer = Stemmer.Stemmer("english", maxCacheSize=0)
_stemmer_lock = Lock()


def terms_of(text: str) -> list[str]:
    """The terms of a text in order, repetitions included."""
    return list(chain.from_iterable(map(_terms_of_word, words_of(text))))


def query_terms(query: str) -> list[str]:
    """The terms to look up, each once, in order."""
    words = words_of(query)
    telling = [word for word in words if word not in _STOP_WORDS]
    terms = (term for word in telling or words for term in _terms_of_word(word))
    return list(dict.fromkeys(terms))[:MAX_QUERY_TERMS]


def document_terms(messages: Iterable[Said], started_unix_ns: int) -> list[str]:
    """What a turn is found by: what was said, and the day in words."""
    words = words_of("\n".join(said.text for said in messages))
    words += words_of(day_in_words(started_unix_ns))
    return list(chain.from_iterable(map(_terms_of_word, words)))


def day_in_words(unix_ns: int) -> str:
    """Such as `Monday 8 May 2023`, in UTC; empty where the time is no date."""
    return _day_in_words(unix_ns // _DAY_NS) if unix_ns >= _EARLIEST_DATE_NS else ""


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared before stemming."""
    if text.isascii():
        folded = text.lower()
    else:
        decomposed = unicodedata.normalize("NFKD", text).casefold()
        folded = unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))
    return _WORD.findall(folded)


@lru_cache(maxsize=1024)
def _day_in_words(days: int) -> str:
    day = datetime.fromtimestamp(days * (_DAY_NS // 10**9), UTC)
    return f"{day:%A} {day.day} {day:%B} {day.year}"


@lru_cache(maxsize=65536)
def _terms_of_word(word: str) -> tuple[str, ...]:
    word = word[:_MAX_TERM_CHARS]
    if not _UNSPACED.search(word):
        with _stemmer_lock:
            return (_stemmer.stemWord(word),)
    terms: list[str] = []
    for run in re.split(f"({_UNSPACED.pattern})", word):
        if _UNSPACED.fullmatch(run) and len(run) > 1:
            terms += (first + second for first, second in pairwise(run))
        elif run:
            terms.append(run)
    return tuple(terms)
