"""What paths and queries may hold."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BeforeValidator

MAX_PAGE = 1000
MAX_ID_CHARS = 256
MAX_KEY_CHARS = 256
MAX_INTEGER = 2**63 - 1
_DECIMAL = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,32})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII
)
_ID_PATTERN = rf"^[\x21-\x7e]{{1,{MAX_ID_CHARS}}}$"
_TEXT_PATTERN = r"\S"


def _decimal(value: Any) -> Any:
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError("expected an integer")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError("expected a number")
    return value


def _boolean(value: Any) -> Any:
    if isinstance(value, str) and value not in {"true", "false"}:
        raise ValueError("expected true or false")
    return value


_IN_DIGITS = BeforeValidator(_decimal)
"""Comes last: bounds that stand before it are in the document as well."""
_AS_NUMBER = BeforeValidator(_number)
_AS_BOOLEAN = BeforeValidator(_boolean)

SessionId = Annotated[str, Path(pattern=_ID_PATTERN, description="The session's id.")]
ArchiveId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="The turn's archive id.")]
NoticeId = Annotated[str, Path(pattern=_ID_PATTERN, description="The notice's id.")]
FactKey = Annotated[
    str, Path(min_length=1, max_length=MAX_KEY_CHARS, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Limit = Annotated[
    int, Query(ge=1, le=MAX_PAGE, description="Entries of a page at most."), _IN_DIGITS
]
After = Annotated[
    int, Query(ge=0, le=MAX_INTEGER, description="`next` of the page before; 0 begins."), _IN_DIGITS
]
AfterName = Annotated[
    str, Query(max_length=MAX_KEY_CHARS, description="`next` of the page before; empty begins.")
]
OfSession = Annotated[str | None, Query(pattern=_ID_PATTERN, description="Only of this session.")]
Words = Annotated[
    str, Query(max_length=4096, pattern=_TEXT_PATTERN, description="What is looked for.")
]
Hits = Annotated[int, Query(ge=1, le=100, description="Best answers at most."), _IN_DIGITS]
Since = Annotated[
    int | None,
    Query(ge=0, le=MAX_INTEGER, description="Only turns that began then or later."),
    _IN_DIGITS,
]
Until = Annotated[
    int | None, Query(ge=0, le=MAX_INTEGER, description="Only turns that began before."), _IN_DIGITS
]
Relevance = Annotated[
    float, Query(ge=0, le=1, description="Only turns of at least this relevance."), _AS_NUMBER
]
Neighbours = Annotated[
    bool, Query(description="With the archived turns before and after each."), _AS_BOOLEAN
]
Wait = Annotated[
    int, Query(alias="timeout", ge=0, le=60, description="Seconds to wait at most."), _IN_DIGITS
]
