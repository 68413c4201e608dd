"""The time that a question speaks of.

"in May 2023", "on 8 May 2023", "May 8", "2023-05-08", "yesterday", "last week",
"two months ago": a half-open range of days in UTC, as wide as the words are
vague.  A month without a year is the last one that has begun.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
_MONTH = "(?P<month>" + "|".join(f"{name}|{name[:3]}" for name in _MONTHS) + r")\b\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b"
_OF_YEAR = r"(?P<year>(?:19|20)\d{2})\b"
_ISO = re.compile(r"\b(\d{4})-(\d{2})(?:-(\d{2}))?\b")
_DAY_MONTH = re.compile(rf"\b{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s*{_OF_YEAR})?")
_MONTH_DAY = re.compile(rf"\b{_MONTH}\s+{_DAY}(?:,?\s*{_OF_YEAR})?")
_MONTH_YEAR = re.compile(rf"\b{_MONTH},?\s+(?:of\s+)?{_OF_YEAR}")
_IN_MONTH = re.compile(rf"\b(?:in|during|since|last|this)\s+{_MONTH}")
_YEAR = re.compile(rf"\b(?:in|during|of|year)\s+{_OF_YEAR}")
_ONLY_A_DAY = re.compile(r"[\d-]+")
_AGO = re.compile(r"\b(\d{1,3}|a|an|one|two|three|four|five|six)\s+(day|week|month|year)s?\s+ago\b")
_LAST = re.compile(r"\b(last|this|past|previous)\s+(week|month|year)\b")
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}


_LATEST = re.compile(
    r"\b(?:latest|newest|most recent(?:ly)?|recently|current(?:ly)?|now|nowadays|these days|lately)\b"
)


class TimeRange(NamedTuple):
    """From `since` to before `until`, in nanoseconds since 1970."""

    since_unix_ns: int
    until_unix_ns: int


def time_asked_for(query: str, now_unix_ns: int) -> TimeRange | None:
    """The range that a question names; None where it names none, or one that does not exist."""
    text = query.lower()
    now = datetime.fromtimestamp(now_unix_ns // 10**9, UTC)
    try:
        return _absolute(text, now) or _relative(text, now)
    except (ValueError, OverflowError):  # 31 February, 400 years ago
        return None


def moment_of(text: str, *, is_end: bool) -> int:
    """A day or time in ISO 8601, in UTC unless it says otherwise, in nanoseconds since 1970.

    Of a day without a time its beginning, or its end.

    Raises:
        ValueError: it is neither, or not from 1970 to 2200.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("a day such as 2026-05-31") from None
    if not 1970 <= moment.year <= 2200:
        raise ValueError("a day from 1970 to 2200")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if is_end and _ONLY_A_DAY.fullmatch(text.strip()):
        moment += timedelta(days=1)
    return max(0, int(moment.timestamp() * 10**6)) * 1000


def asks_for_latest(query: str) -> bool:
    """Whether a question is about how things stand now."""
    return _LATEST.search(query.lower()) is not None


def _absolute(text: str, now: datetime) -> TimeRange | None:
    if found := _ISO.search(text):
        year, month, day = found.groups()
        return _day(int(year), int(month), int(day)) if day else _month(int(year), int(month))
    if found := _DAY_MONTH.search(text) or _MONTH_DAY.search(text):
        name, day = found["month"], found["day"]
        return _day(_year(found["year"], name, now), _number(name), int(day))
    if found := _MONTH_YEAR.search(text) or _IN_MONTH.search(text):
        name = found["month"]
        return _month(_year(found.groupdict().get("year"), name, now), _number(name))
    if found := _YEAR.search(text):
        year = int(found["year"])
        return _range(datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC))
    return None


def _relative(text: str, now: datetime) -> TimeRange | None:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if re.search(r"\byesterday\b", text):
        return _range(today - timedelta(days=1), today)
    if re.search(r"\btoday\b", text):
        return _range(today, today + timedelta(days=1))
    if found := _AGO.search(text):
        number, unit = found.groups()
        days = _DAYS[unit]
        middle = today - timedelta(days=days * (_NUMBERS.get(number) or int(number)))
        slack = timedelta(days=days / 2)
        return _range(middle - slack, middle + timedelta(days=1) + slack)
    if found := _LAST.search(text):
        which, unit = found.groups()
        reach = timedelta(days=_DAYS[unit] * (1 if which == "this" else 2))
        return _range(today - reach, today + timedelta(days=1))
    return None


def _day(year: int, month: int, day: int) -> TimeRange:
    start = datetime(year, month, day, tzinfo=UTC)
    return _range(start, start + timedelta(days=1))


def _month(year: int, month: int) -> TimeRange:
    start = datetime(year, month, 1, tzinfo=UTC)
    return _range(start, datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC))


def _range(since: datetime, until: datetime) -> TimeRange:
    if since.year < 1970:
        raise OverflowError("no conversation is that old")
    return TimeRange(int(since.timestamp()) * 10**9, int(until.timestamp()) * 10**9)


def _number(name: str) -> int:
    return next(number for number, full in enumerate(_MONTHS, 1) if full.startswith(name[:3]))


def _year(year: str | None, name: str, now: datetime) -> int:
    if year:
        return int(year)
    return now.year if _number(name) <= now.month else now.year - 1
