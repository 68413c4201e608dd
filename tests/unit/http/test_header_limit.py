"""Headers are refused by their size, however their bytes arrive."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from shepherd_http.limits import MAX_HEADER_BYTES, SizeLimit


@pytest.mark.parametrize(("num_bytes", "status"), [(MAX_HEADER_BYTES, 204), (MAX_HEADER_BYTES + 1, 431)])  # fmt: skip
async def test_headers_beyond_the_limit_never_reach_the_application(
    num_bytes: int, status: int
) -> None:
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x", b"y" * 99), (b"z", b"z" * (num_bytes - 101))]
    await SizeLimit(application)({"type": "http", "headers": headers}, receive, send)

    assert sent[0]["status"] == status
