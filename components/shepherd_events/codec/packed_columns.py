"""Packed protobuf columns as the bytes of arrays, without one object per entry.

On the wire `repeated fixed64` in one packed chunk is what a `bytes` field would
be: tag, length, little-endian entries.  So a column is written from its array's
bytes, and read through a view of the schema that declares it `bytes`.  A view
keeps only the last chunk of a column that came in several: whoever uses one
must know how long the column has to be.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Iterable
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_LENGTH_DELIMITED = 2


def delimited_field(number: int, content: bytes) -> bytes:
    """A field that carries its length; `number` is in 1..15."""
    prefix = bytearray((number << 3 | _LENGTH_DELIMITED,))
    length = len(content)
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + content


def packed_field(number: int, column: array[int]) -> bytes:
    """A column of 4- or 8-byte entries in one chunk; nothing at all when it is empty."""
    if not column:
        return b""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return delimited_field(number, column.tobytes())


def unpack(typecode: str, column: bytes | Iterable[int]) -> array[int]:
    """A column from the bytes that a view shows, or from the entries of a typed message.

    Raises:
        ValueError: the bytes are not a whole number of entries.
    """
    if not isinstance(column, bytes):
        return array(typecode, column)
    values = array(typecode)
    values.frombytes(column)
    if sys.byteorder == "big":
        values.byteswap()
    return values


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
