"""Frames between workers: their bytes, and that damage is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_worker.engine.embedded.transfer.errors import TransferError
from shepherd_worker.engine.embedded.transfer.frames import (
    HEADER_BYTES,
    Header,
    Kind,
    Request,
    encode_header,
    pack_size,
    unpack_size,
)

FINGERPRINT = bytes(range(32))


def test_the_bytes_of_a_frame_are_these() -> None:
    body = Request(b"t" * 16, 2, 5).encode()

    assert encode_header(Kind.REQUEST, FINGERPRINT, [body]).hex() == (
        "534b56320100000020000000" + FINGERPRINT.hex() + "9ef36a8327bb6f76"
    )
    assert body.hex() == "74" * 16 + "0200000000000000" + "0500000000000000"
    assert HEADER_BYTES == 52
    assert pack_size(258).hex() == "0201000000000000"


def test_a_header_comes_back_as_it_went_whatever_buffers_the_body_lies_in() -> None:
    header = Header.decode(encode_header(Kind.RECORDS, FINGERPRINT, [b"ab", memoryview(b"cde")]))

    assert (header.kind, header.num_bytes, header.fingerprint) == (Kind.RECORDS, 5, FINGERPRINT)
    checksum = header.checksum_of_body()
    checksum.update(b"abc")
    checksum.update(b"de")
    checksum.check()
    assert Request.decode(Request(b"t" * 16, 2, 5).encode()) == Request(b"t" * 16, 2, 5)
    assert unpack_size(pack_size(7)) == 7


@given(st.binary(min_size=1, max_size=64), st.data())
def test_any_flipped_bit_is_seen(body: bytes, data: st.DataObject) -> None:
    frame = bytearray(encode_header(Kind.RECORDS, FINGERPRINT, [body]) + body)
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8

    with pytest.raises(TransferError):
        checksum = Header.decode(bytes(frame[:HEADER_BYTES])).checksum_of_body()
        checksum.update(bytes(frame[HEADER_BYTES:]))
        checksum.check()


def test_what_is_no_frame_is_refused_with_what_it_was() -> None:
    with pytest.raises(TransferError, match=r"expected a frame, got b'HTTP'"):
        Header.decode(b"HTTP/1.1 400 Bad Request".ljust(HEADER_BYTES))
    with pytest.raises(TransferError, match="a kind of frame that is known, got 99"):
        frame = bytearray(encode_header(Kind.DONE, FINGERPRINT, []))
        frame[4] = 99
        Header.decode(bytes(frame))
    with pytest.raises(TransferError, match="a request has 32 bytes, got 3"):
        Request.decode(b"abc")
