"""Requests that come twice, and answers that are known already."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import Response

from memory_doors import House, house
from shepherd_memory.api.conditional import KEPT_S, IdempotencyKeys
from shepherd_memory.errors import ConflictError, InvalidParameterError


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened:
        yield opened


async def test_a_write_with_a_key_is_done_once(door: House) -> None:
    first = {"idempotency-key": "one"}
    await door.call("PUT", "/v1/facts/color", 204, json={"value": "red"}, **first)
    await door.call("PUT", "/v1/facts/color", 204, json={"value": "blue"})

    await door.call("PUT", "/v1/facts/color", 204, json={"value": "red"}, **first)

    assert (await door.get("/v1/facts/color"))["value"] == "blue"
    problem = await door.call("PUT", "/v1/facts/color", 422, json={"value": "x"}, **first)
    assert problem["field"] == "idempotency-key"
    await door.call(
        "PUT", "/v1/facts/color", 422, json={"value": "x"}, **{"idempotency-key": "k" * 256}
    )


async def test_a_refused_write_may_be_made_again_with_its_key(door: House) -> None:
    key = {"idempotency-key": "one"}
    await door.call("DELETE", "/v1/facts/color", 404, **key)
    await door.call("PUT", "/v1/facts/color", 204, json={"value": "red"})

    await door.call("DELETE", "/v1/facts/color", 204, **key)
    await door.call("DELETE", "/v1/facts/color", 204, **key)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keys_are_kept_for_an_hour_and_in_bounds() -> None:
    clock = Clock()
    keys = IdempotencyKeys(monotonic_s=clock, max_keys=2)
    one, two, three = ("who", "", "1"), ("who", "", "2"), ("who", "", "3")
    assert keys.begin(one, b"a") is None
    with pytest.raises(ConflictError, match="under way"):
        keys.begin(one, b"a")
    answer = Response("done")
    keys.end(one, answer)
    assert keys.begin(one, b"a") is answer
    with pytest.raises(InvalidParameterError):
        keys.begin(one, b"b")
    assert keys.begin(("other", "", "1"), b"b") is None

    assert keys.begin(two, b"a") is None
    assert keys.begin(three, b"a") is None
    assert keys.begin(one, b"b") is None  # pushed out by the third
    keys.end(three, None)
    assert keys.begin(three, b"z") is None  # came to nothing: may be made again
    clock.now = KEPT_S + 1
    assert keys.begin(three, b"y") is None


async def test_an_answer_that_is_known_is_not_sent_again(door: House) -> None:
    await door.call("PUT", "/v1/facts/color", 204, json={"value": "red"})
    async with door.client.get("/v1/facts") as answer:
        tag = answer.headers["etag"]

    async with door.client.get("/v1/facts", headers={"if-none-match": f'"x", {tag}'}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    await door.call("PUT", "/v1/facts/color", 204, json={"value": "blue"})
    async with door.client.get("/v1/facts", headers={"if-none-match": tag}) as answer:
        assert answer.status == 200
        assert answer.headers["etag"] != tag


async def test_a_body_has_a_size_and_is_json(door: House) -> None:
    async with door.client.post("/v1/memories", data=io.BytesIO(b"x" * (2 << 20))) as answer:
        assert answer.status == 413
        assert answer.content_type == "application/problem+json"

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65536

    async with door.client.post("/v1/memories", data=endless()) as answer:
        assert answer.status == 413
    headers = {"content-type": "application/json"}
    async with door.client.post("/v1/memories", data=b"{", headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["field"]) == (400, "body")
    for text in ("[" * 100_000, '{"question": "\\ud800", "answer": "a"}'):
        async with door.client.post("/v1/memories", data=text, headers=headers) as answer:
            assert answer.status in {400, 422}
