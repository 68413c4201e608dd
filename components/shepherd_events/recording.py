"""Streams in a file: what was handed out, when, in order, checked byte by byte.

    magic    "SHKVREC1"
    record   kind u8, payload length u32, crc32 u32, Unix time in ns u64, payload
    ...
    record   of kind INDEX, the last
    footer   offset of the index u64, crc32 of it u32, "SHKVEND1"

Numbers are little-endian; a checksum covers kind, length, time and payload.  The
first record is a HEADER.  A FRAME is the frame as it travels.  A RESET says how
many RUN records follow, each a frame with one stored run, and means nothing
without all of them.  The INDEX tells where records of which time begin.

A file without its footer was not closed: it is read up to its last whole record,
and what lies behind that is counted, not guessed.  With a footer every byte is
accounted for, and a record that is wrong is an error.
"""

from __future__ import annotations

import json
import mmap
import struct
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, Self
from zlib import crc32

from shepherd_events.codec import MAX_FRAME_BYTES, decode_frame, encode_frame
from shepherd_events.errors import CodecError, KvEventsError
from shepherd_events.events import BlockBatch, BlocksStored, Frame, StreamId
from shepherd_events.subscription_types import Item, Reset, ResetReason

MAGIC = b"SHKVREC1"
END = b"SHKVEND1"
_HEAD = struct.Struct("<BIIQ")
_FOOTER = struct.Struct("<QI8s")
_CHECKED = struct.Struct("<BIQ")
_INDEX_EVERY_BYTES = 1 << 20


class Kind(IntEnum):
    """What a record is; the numbers are those in the file."""

    HEADER = 1
    FRAME = 2
    RESET = 3
    RUN = 4
    INDEX = 5


_KINDS = frozenset(kind.value for kind in Kind)


class RecordingError(KvEventsError):
    """A file that is no recording, or one with wrong bytes in it."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """One item as it was handed out."""

    unix_ns: int
    """When it was recorded."""
    stream: StreamId
    item: Item


@dataclass(frozen=True, slots=True)
class Index:
    """What a closed recording holds, and where."""

    items: int
    first_unix_ns: int
    """0 where nothing was recorded."""
    last_unix_ns: int
    streams: tuple[str, ...]
    marks: tuple[tuple[int, int], ...]
    """(time of an item in ns, its offset), about one a mebibyte, the first item's first."""

    @property
    def duration_s(self) -> float:
        """From the first item to the last."""
        return (self.last_unix_ns - self.first_unix_ns) / 1e9


class RecordingWriter:
    """Appends items to a new file; what was added is in the file after `flush`.

    One thread adds, and is never held up by another one that flushes.
    """

    def __init__(self, file: BinaryIO, *, created_unix_ns: int) -> None:
        self._file = file
        self._waiting = bytearray(MAGIC)
        self._offset = 0
        self._taking = threading.Lock()
        """Held while bytes are added to those that wait, or taken from them."""
        self._writing = threading.Lock()
        self._marks: list[tuple[int, int]] = []
        self._marked_at = -_INDEX_EVERY_BYTES
        self._streams: dict[StreamId, None] = {}
        self._first_unix_ns = self._last_unix_ns = 0
        self.items = 0
        self._add(Kind.HEADER, created_unix_ns, json.dumps({"version": 1}).encode())

    @property
    def size_bytes(self) -> int:
        """Of the file, with what was not flushed yet."""
        with self._taking:
            return self._offset + len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Added and not flushed yet."""
        return len(self._waiting)

    def add(self, recorded: RecordedItem) -> None:
        """Take an item; only memory is touched.

        Raises:
            CodecError: the item has no bytes.
        """
        if self.size_bytes - self._marked_at >= _INDEX_EVERY_BYTES:
            self._marked_at = self.size_bytes
            self._marks.append((recorded.unix_ns, self.size_bytes))
        item = recorded.item
        if isinstance(item, Reset):
            self._add_reset(recorded.stream, item, recorded.unix_ns)
        else:
            self._add(Kind.FRAME, recorded.unix_ns, encode_frame(item))
        self._streams[recorded.stream] = None
        self._first_unix_ns = self._first_unix_ns or recorded.unix_ns
        self._last_unix_ns = recorded.unix_ns
        self.items += 1

    def flush(self) -> None:
        """Write what was added.

        Raises:
            OSError: the file cannot be written.
        """
        with self._writing:
            with self._taking:
                waiting, self._waiting = self._waiting, bytearray()
                self._offset += len(waiting)
            if waiting:
                self._file.write(waiting)
                self._file.flush()

    def close(self) -> None:
        """Write the rest, the index and the footer; the file stays open.

        Raises:
            OSError: the file cannot be written; it can be read all the same.
        """
        index = Index(
            items=self.items,
            first_unix_ns=self._first_unix_ns,
            last_unix_ns=self._last_unix_ns,
            streams=tuple(map(str, self._streams)),
            marks=tuple(self._marks),
        )
        offset = self.size_bytes
        self._add(Kind.INDEX, self._last_unix_ns, json.dumps(asdict(index)).encode())
        number = offset.to_bytes(8, "little")
        with self._taking:
            self._waiting += _FOOTER.pack(offset, crc32(number), END)
        self.flush()

    def _add_reset(self, stream: StreamId, reset: Reset, unix_ns: int) -> None:
        """The runs are encoded first: a reset is added as a whole or not at all."""
        runs = [
            encode_frame(Frame(stream, reset.epoch, 1, unix_ns, BlockBatch((run,))))
            for run in reset.blocks
        ]
        said = {
            "worker": stream.worker_id,
            "rank": stream.dp_rank,
            "epoch": reset.epoch,
            "as_of_seq": reset.as_of_seq,
            "reason": reset.reason.value,
            "runs": len(runs),
        }
        self._add(Kind.RESET, unix_ns, json.dumps(said).encode())
        for run in runs:
            self._add(Kind.RUN, unix_ns, run)

    def _add(self, kind: Kind, unix_ns: int, payload: bytes) -> None:
        checksum = _checksum(kind, unix_ns, payload)
        with self._taking:
            self._waiting += _HEAD.pack(kind, len(payload), checksum, unix_ns) + payload


@dataclass(frozen=True, slots=True)
class _Record:
    kind: Kind
    unix_ns: int
    payload: bytes
    next_offset: int


class _BrokenRecordError(Exception):
    """The bytes at an offset are no whole and right record."""


class Recording:
    """A file that is read; close it, or use it as a context."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, and RecordingError where the file is no recording."""
        self.path = path
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(path, "this is no recording: its first bytes are others")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._size = size
        self.unread_bytes = 0
        """Bytes behind the last whole record, once the items of an unclosed file were read."""
        self.index = self._read_index()
        """None where the file was not closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._bytes.close()

    def items(self, *, skip_s: float = 0.0) -> Iterator[RecordedItem]:
        """The items from `skip_s` seconds after the first one on.

        Raises:
            RecordingError: a closed recording has a wrong record.
        """
        offset, since_ns = self._begin(skip_s)
        while offset < self._size:
            try:
                record = self._record(offset)
                if record.kind is Kind.INDEX:
                    return
                recorded, next_offset = self._item(record)
            except _BrokenRecordError as error:
                if self.index is not None:
                    raise RecordingError(self.path, f"damaged at byte {offset}: {error}") from error
                self.unread_bytes = self._size - offset
                return
            offset = next_offset
            if recorded is not None and recorded.unix_ns >= since_ns:
                yield recorded

    def _begin(self, skip_s: float) -> tuple[int, int]:
        """Where to read from, and from which time on items count."""
        first = len(MAGIC)
        if skip_s <= 0:
            return first, 0
        index = self.index
        if index is not None and index.marks:
            since_ns = index.first_unix_ns + round(skip_s * 1e9)
            before = [offset for unix_ns, offset in index.marks if unix_ns < since_ns]
            return before[-1] if before else first, since_ns
        first_item = next(self.items(), None)
        return first, (first_item.unix_ns if first_item else 0) + round(skip_s * 1e9)

    def _item(self, record: _Record) -> tuple[RecordedItem | None, int]:
        """The item that begins with a record, None for the header, and where the next begins."""
        if record.kind is Kind.HEADER:
            return None, record.next_offset
        if record.kind is Kind.FRAME:
            frame = _frame(record)
            return RecordedItem(record.unix_ns, frame.stream, frame), record.next_offset
        if record.kind is not Kind.RESET:
            raise _BrokenRecordError(f"a {record.kind.name} where an item should begin")
        try:
            return self._reset(record, json.loads(record.payload))
        except (KeyError, TypeError, ValueError) as error:
            raise _BrokenRecordError(f"a reset that cannot be read: {error!r}") from error

    def _reset(self, record: _Record, said: dict[str, Any]) -> tuple[RecordedItem, int]:
        blocks: list[BlocksStored] = []
        offset = record.next_offset
        for _ in range(said["runs"]):
            run = self._record(offset)
            body = _frame(run).body
            if run.kind is not Kind.RUN or not isinstance(body, BlockBatch):
                raise _BrokenRecordError("a reset without all of its runs")
            blocks += [event for event in body.events if isinstance(event, BlocksStored)]
            offset = run.next_offset
        reset = Reset(said["epoch"], said["as_of_seq"], tuple(blocks), ResetReason(said["reason"]))
        stream = StreamId(said["worker"], said["rank"])
        return RecordedItem(record.unix_ns, stream, reset), offset

    def _record(self, offset: int) -> _Record:
        start = offset + _HEAD.size
        if start > self._size:
            raise _BrokenRecordError("it ends in the head of a record")
        number, length, checksum, unix_ns = _HEAD.unpack_from(self._bytes, offset)
        if number not in _KINDS or (length > 2 * MAX_FRAME_BYTES and number != Kind.INDEX):
            raise _BrokenRecordError(f"kind {number} of {length} bytes is not known")
        if start + length > self._size:
            raise _BrokenRecordError("it ends within a record")
        payload = self._bytes[start : start + length]
        kind = Kind(number)
        if _checksum(kind, unix_ns, payload) != checksum:
            raise _BrokenRecordError("a record has another checksum")
        return _Record(kind, unix_ns, payload, start + length)

    def _read_index(self) -> Index | None:
        """The index of a file that was closed.

        Raises:
            RecordingError: the footer is there and the index is not.
        """
        if self._size < len(MAGIC) + _FOOTER.size:
            return None
        offset, checksum, end = _FOOTER.unpack_from(self._bytes, self._size - _FOOTER.size)
        if end != END or checksum != crc32(offset.to_bytes(8, "little")):
            return None
        try:
            said: dict[str, Any] = json.loads(self._record(offset).payload)
        except _BrokenRecordError as error:
            raise RecordingError(self.path, f"its index is damaged: {error}") from error
        marks = tuple((unix_ns, place) for unix_ns, place in said.pop("marks"))
        return Index(**said | {"streams": tuple(said["streams"])}, marks=marks)


def _frame(record: _Record) -> Frame:
    try:
        return decode_frame(record.payload)
    except CodecError as error:
        raise _BrokenRecordError(f"a frame that cannot be read: {error}") from error


def _checksum(kind: Kind, unix_ns: int, payload: bytes) -> int:
    return crc32(payload, crc32(_CHECKED.pack(kind, len(payload), unix_ns)))
