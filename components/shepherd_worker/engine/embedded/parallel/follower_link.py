"""What the first process of an engine says to another one, and how: frames over a socket pair.

    leader                                  follower
    ------                                  --------
    SETTINGS (JSON)                ---->    joins the group, loads its share of the model
                                   <----    LOADED (blocks that it has memory for)
    CACHE (blocks, host blocks)    ---->    makes its cache
                                   <----    READY
    STEP, COPY, WRITE              ---->    does the same as the leader; no answer
    READ (block ids)               ---->
                                   <----    RECORDS
    end of the stream              ---->    exits

Commands are carried out in order, one at a time.  Either side learns of the
other's death by the end of the stream.
"""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Sequence
from enum import IntEnum

_HEADER = struct.Struct("<BQ")


class Kind(IntEnum):
    """See the module's docstring."""

    SETTINGS = 0
    LOADED = 1
    CACHE = 2
    READY = 3
    STEP = 4
    COPY = 5
    WRITE = 6
    READ = 7
    RECORDS = 8


class LinkClosedError(Exception):
    """The process at the other end has gone."""


class Link:
    """One end; a frame is sent and received whole."""

    def __init__(self, end: socket.socket) -> None:
        """Takes the socket over."""
        self._socket = end

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame.

        Raises:
            LinkClosedError: nobody will receive it.
        """
        try:
            self._socket.sendall(_HEADER.pack(kind, len(payload)))
            self._socket.sendall(payload)
        except OSError as error:
            raise LinkClosedError from error

    def receive(self) -> tuple[Kind, bytes]:
        """The next frame.

        Raises:
            LinkClosedError: there will be none.
        """
        kind, size = _HEADER.unpack(self._receive(_HEADER.size))
        return Kind(kind), self._receive(size)

    def expect(self, kind: Kind) -> bytes:
        """The payload of the next frame, which must be of this kind.

        Raises:
            LinkClosedError: there will be none.
        """
        received, payload = self.receive()
        if received is not kind:
            raise RuntimeError(f"received {received.name}, expected {kind.name}")
        return payload

    def close(self) -> None:
        """End the stream; the other side's `receive` raises."""
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            try:
                count = self._socket.recv_into(view[got:])
            except OSError as error:
                raise LinkClosedError from error
            if not count:
                raise LinkClosedError
            got += count
        return bytes(data)


def encode_records(block_ids: Sequence[int], records: Sequence[bytes | memoryview]) -> bytes:
    """Blocks and as many records of one size."""
    ids = array("I", (len(block_ids), *block_ids))
    return ids.tobytes() + b"".join(records)


def decode_records(data: bytes) -> tuple[list[int], list[memoryview]]:
    """What `encode_records` was given."""
    count = int.from_bytes(data[:4], "little")
    ids = array("I", data[4 : 4 * (count + 1)])
    body = memoryview(data)[4 * (count + 1) :]
    size = len(body) // count if count else 0
    return ids.tolist(), [body[i * size : (i + 1) * size] for i in range(count)]
