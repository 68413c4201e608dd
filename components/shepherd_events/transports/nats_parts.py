"""Replies that are larger than the broker lets one message be, in numbered parts.

Part k of n says `k/n` in a header, from 1; a reply of one part says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

HEADER = "Shepherd-Part"
_ROOM_FOR_HEADERS = 1024


def in_parts(reply: bytes, max_payload: int) -> Iterator[tuple[bytes, dict[str, str] | None]]:
    """The payloads and headers of the messages that carry a reply."""
    size = max_payload - _ROOM_FOR_HEADERS
    count = max(1, -(-len(reply) // size))
    for number in range(count):
        headers = {HEADER: f"{number + 1}/{count}"} if count > 1 else None
        yield reply[number * size : (number + 1) * size], headers


class Assembly:
    """Puts the parts of one reply together, in whatever order they come."""

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}

    def add(self, payload: bytes, header: str | None) -> bytes | None:
        """Take a part; the whole reply once the last one is there.

        Raises:
            ValueError: the header is not that of a part.
        """
        number, _, count = (header or "1/1").partition("/")
        if not 1 <= int(number) <= int(count):
            raise ValueError(f"{HEADER}: {header!r} is no part")
        self._parts[int(number)] = payload
        if len(self._parts) < int(count):
            return None
        return b"".join(self._parts[part] for part in sorted(self._parts))
