"""One client's connection, which may not send heads and trailers without end.

The parser gathers what is no body for as long as it comes: neither a head's size nor
a trailer's is limited there.  What comes whole is judged by `SizeLimit`.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shepherd_http.limits import MAX_HEADER_BYTES

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class Connection(HttpToolsProtocol):
    """Closed as soon as `MAX_HEADER_BYTES` came since the last piece of a body or a head's end."""

    _gathered = 0
    _has_moved = False
    """Whether what came last was more than a part of a head."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._has_moved = False
        super().data_received(data)
        self._gathered = 0 if self._has_moved else self._gathered + len(data)
        if self._gathered > MAX_HEADER_BYTES and not self.transport.is_closing():
            if getattr(self.cycle, "response_complete", True):  # there may be none yet
                self.transport.write(_REFUSAL)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._has_moved = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._has_moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._has_moved = True
        super().on_message_complete()
