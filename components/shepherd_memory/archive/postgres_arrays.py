"""Columns of many rows as PostgreSQL's binary arrays, for `unnest` to make rows of.

Written at once from numpy or bytes: the driver's own lists cost more than the
rows that are made of them.  COPY is no way in, since tables with row-level
security do not take it.

Source: array_recv in https://github.com/postgres/postgres/blob/REL_16_STABLE/src/backend/utils/adt/arrayfuncs.c
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import adapters
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = struct.Struct(">iiIii")
_INTEGER = np.dtype([("size", ">i4"), ("value", ">i8")])
_BYTEA, _INT8 = adapters.types["bytea"], adapters.types["int8"]


@dataclass(frozen=True, slots=True)
class Integers:
    """A `bigint[]`."""

    values: Sequence[int]


@dataclass(frozen=True, slots=True)
class Strings:
    """A `bytea[]`."""

    values: Sequence[str | bytes]


def register(context: AdaptContext) -> None:
    """Let a connection take columns."""
    context.adapters.register_dumper(Integers, _IntegersDumper)
    context.adapters.register_dumper(Strings, _StringsDumper)


class _IntegersDumper(Dumper):
    format = Format.BINARY
    oid = _INT8.array_oid

    def dump(self, obj: Integers) -> bytes:
        """Each with its size ahead."""
        items = np.empty(len(obj.values), _INTEGER)
        items["size"], items["value"] = 8, obj.values
        return _header(_INT8.oid, len(obj.values)) + items.tobytes()


class _StringsDumper(Dumper):
    format = Format.BINARY
    oid = _BYTEA.array_oid

    def dump(self, obj: Strings) -> bytes:
        """Each with its size ahead."""
        parts = [_header(_BYTEA.oid, len(obj.values))]
        for value in obj.values:
            raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            parts += (len(raw).to_bytes(4, "big"), raw)
        return b"".join(parts)


def _header(element_oid: int, length: int) -> bytes:
    """One dimension from 1, without nulls."""
    return _HEADER.pack(1, 0, element_oid, length, 1)
