"""Packed protobuf columns as bytes, without one object per entry where that can be avoided.

On the wire a packed column in one chunk is what a `bytes` field would be: tag,
length, entries.  So a column is written from the bytes of its arrays, and read
through a view of the schema that declares it `bytes`.  Entries of 4 or 8 bytes
are little-endian; varints below 128, which most are, are one byte each, so that
the column itself is a sequence of its entries.

A view keeps only the last chunk of a column that came in several.  Whoever uses
one must compare sizes (`is_whole`) and read the message as published otherwise.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Union

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_LENGTH_DELIMITED = 2
_MAX_UINT32 = (1 << 32) - 1
_ITEM_BYTES = {"I": 4, "Q": 8}
_MAX_SHORT = 0x7F
"""Of the entries that are one byte."""

Part = Union[bytes, "array[int]"]
"""Of the bytes of a message, in their order."""


@lru_cache(maxsize=1 << 12)
def varint(value: int) -> bytes:
    """The bytes of a `uint32`.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= value <= _MAX_UINT32:
        raise ValueError(f"{value} is not in 0..{_MAX_UINT32}")
    entry = bytearray()
    while value > 0x7F:
        entry.append(value & 0x7F | 0x80)
        value >>= 7
    entry.append(value)
    return bytes(entry)


def delimited_field(number: int, content: bytes | bytearray) -> bytes:
    """A field that carries its length."""
    return field_head(number, len(content)) + content


def field_head(number: int, length: int) -> bytes:
    """What stands before the `length` bytes of a field's content."""
    return _tag(number) + varint(length)


def varint_field(number: int, column: Sequence[int]) -> bytes:
    """A column of varints in one chunk; nothing at all when it is empty."""
    if not column:
        return b""
    if column.count(column[0]) == len(column):
        content = varint(column[0]) * len(column)
    elif max(column) <= _MAX_SHORT:
        content = bytes(column)
    else:
        content = b"".join(map(varint, column))
    return delimited_field(number, content)


def fixed_field(number: int, typecode: str, columns: Sequence[array[int]]) -> list[Part]:
    """A column of 4- or 8-byte entries in one chunk, its parts behind each other.

    Raises:
        TypeError: a part is not an array of that type.
    """
    if not {column.typecode for column in columns} <= {typecode}:
        raise TypeError(f"expected arrays of {typecode!r}")
    if sys.byteorder == "big":
        columns = [_swapped(column) for column in columns]
    length = sum(map(len, columns)) * _ITEM_BYTES[typecode]
    return [field_head(number, length), *columns] if length else []


def num_bytes(parts: Iterable[Part]) -> int:
    """Of all of them."""
    return sum(
        len(part) if isinstance(part, bytes) else len(part) * part.itemsize for part in parts
    )


@lru_cache(maxsize=64)
def _tag(number: int) -> bytes:
    return varint(number << 3 | _LENGTH_DELIMITED)


def _swapped(column: array[int]) -> array[int]:
    column = array(column.typecode, column)
    column.byteswap()
    return column


def _unpack_swapped(typecode: str, column: bytes | Iterable[int]) -> array[int]:
    values = array(typecode, column)
    if isinstance(column, bytes):
        values.byteswap()
    return values


unpack_fixed: Callable[[str, Any], array[int]] = (
    array if sys.byteorder == "little" else _unpack_swapped
)
"""A column from the bytes that a view shows, or from the entries of a typed message.

Raises ValueError where the bytes are not a whole number of entries.
"""


def unpack_varints(column: bytes) -> Sequence[int]:
    """The entries of a column that a view shows.

    Raises:
        ValueError: they are not 32-bit numbers as every writer writes them.
    """
    return column if column.isascii() else _unpacked(column)


@lru_cache(maxsize=256)
def _unpacked(column: bytes) -> tuple[int, ...]:
    values: list[int] = []
    value = shift = 0
    for byte in column:
        value |= (byte & 0x7F) << shift
        if byte > 0x7F:
            shift += 7
            continue
        if value > _MAX_UINT32:
            raise ValueError(f"{value} is more than 32 bits")
        values.append(value)
        value = shift = 0
    if shift:
        raise ValueError("the last entry is cut off")
    return tuple(values)


def is_whole(message: Any, payload: bytes) -> bool:
    """Whether a view shows everything that `payload`, of which it was parsed, says.

    What it cannot show, such as a column's other chunks or entries that are not
    packed, is missing when it is written again; nothing ever grows by that.
    """
    message.DiscardUnknownFields()
    return bool(message.ByteSize() == len(payload))


def view_classes(
    file: FileDescriptor, message: str, columns: Collection[str], wanted: Iterable[str]
) -> tuple[Any, ...]:
    """The `wanted` message classes of `file`, with `columns` of `message` declared as bytes."""
    schema = FileDescriptorProto()
    file.CopyToProto(schema)
    for field in next(entry for entry in schema.message_type if entry.name == message).field:
        if field.name in columns:
            field.label = FieldDescriptorProto.LABEL_OPTIONAL
            field.type = FieldDescriptorProto.TYPE_BYTES
    pool = DescriptorPool()
    for dependency in file.dependencies:
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.Add(schema)
    return tuple(
        GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in wanted
    )
