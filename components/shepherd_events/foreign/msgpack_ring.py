"""The last messages of a stream in vLLM's form, bounded in number and bytes; any thread."""

from __future__ import annotations

import threading
from collections import deque

Message = tuple[int, bytes]
"""Sequence number and payload."""


class MessageRing:
    """Keeps what a replay can bring."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Message] = deque()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def append(self, seq: int, payload: bytes) -> None:
        """Keep a message; the oldest ones make room."""
        with self._lock:
            self._messages.append((seq, payload))
            self._num_bytes += len(payload)
            while len(self._messages) > self._max_messages or self._num_bytes > self._max_bytes:
                self._num_bytes -= len(self._messages.popleft()[1])

    def since(self, seq: int) -> list[Message]:
        """What is kept of [seq, ...), in order."""
        with self._lock:
            first = self._messages[0][0] if self._messages else seq
            return list(self._messages)[max(0, seq - first) :]

    def __repr__(self) -> str:
        return f"<MessageRing {len(self._messages)} messages, {self._num_bytes} bytes>"
