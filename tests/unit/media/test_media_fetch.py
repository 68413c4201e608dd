"""Fetching what a client names, from a real server and through DNS that lies."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from media_server import FakeResolver, MediaServer, data_url, media_server, png
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.media.fetch import MediaFetcher
from shepherd_worker.media.policy import MediaPolicy
from tiny_vision_models import picture

CAT = png(picture(1))
POLICY = MediaPolicy(
    schemes=frozenset({"data", "http", "https"}),
    allowed_hosts=frozenset({"127.0.0.1"}),
    max_bytes=200_000,
    timeout_s=5.0,
)
LOOPBACK = [["127.0.0.1"]]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MediaServer]:
    async with media_server(CAT) as state:
        yield state


async def fetch(
    url: str, policy: MediaPolicy = POLICY, dns: dict[str, list[list[str]]] | None = None
) -> bytes:
    async with MediaFetcher(policy, FakeResolver(dns or {})) as fetcher:
        return await fetcher.fetch(url)


async def refused(url: str, policy: MediaPolicy = POLICY, **dns: list[list[str]]) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        await fetch(url, policy, dns)
    assert raised.value.field == "image_url"
    return str(raised.value)


async def test_a_picture_is_fetched_without_cookie_proxy_or_credential(
    server: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert await fetch(server.url("cat.png?size=1")) == CAT
    assert await fetch(server.url("binary")) == CAT
    assert set(server.headers[0]) == {
        *("Host", "Accept", "Accept-Encoding", "User-Agent", "Connection")
    }


async def test_a_name_is_resolved_once_and_its_answer_is_what_is_asked(
    server: MediaServer,
) -> None:
    resolver = FakeResolver({"pictures.test": [["127.0.0.1"], ["10.9.9.9"]]})
    policy = replace(POLICY, allowed_hosts=frozenset({"127.0.0.0/8"}))
    async with MediaFetcher(policy, resolver) as fetcher:
        first = await fetcher.fetch(server.url("cat.png", "pictures.test"))
        with pytest.raises(InvalidRequestError, match="public internet"):
            await fetcher.fetch(server.url("cat.png", "pictures.test"))

    assert first == CAT
    assert resolver.asked == ["pictures.test"] * 2
    assert server.paths == ["/cat.png"]


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"], ["::1"], ["fe80::1%lo"]],
)
async def test_a_name_that_leads_inside_is_refused_and_nobody_is_asked(
    server: MediaServer, addresses: list[str]
) -> None:
    policy = replace(POLICY, allowed_hosts=frozenset())

    message = await refused(
        server.url("cat.png", "evil.test"), policy, **{"evil.test": [addresses]}
    )

    assert "image_url='evil.test'" in message
    assert "--media-allow-hosts" in message
    assert server.paths == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]"]
)
async def test_an_address_inside_is_refused_however_it_is_written(
    server: MediaServer, host: str
) -> None:
    policy = replace(POLICY, allowed_hosts=frozenset())

    assert "public internet" in await refused(
        server.url("cat.png", host), policy, **{"0x7f.1": LOOPBACK}
    )
    assert server.paths == []


async def test_redirects_are_followed_a_few_times(server: MediaServer) -> None:
    assert await fetch(server.url("hop/2")) == CAT
    assert server.paths == ["/hop/2", "/hop/1", "/hop/0", "/cat.png"]
    assert "at most 3 redirects" in await refused(server.url("hop/3"))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://10.0.0.1/", "public internet"),
        ("http://inside.test/", "public internet"),
        ("//169.254.169.254/", "public internet"),
        ("file:///etc/passwd", "a URL of"),
        ("data:image/png;base64,AAAA", "a host"),
        ("http://a:b@127.0.0.1/", "without credentials"),
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(
    server: MediaServer, target: str, words: str
) -> None:
    message = await refused(server.url(f"to/{target}"), **{"inside.test": [["10.0.0.1"]]})

    assert words in message
    assert len(server.paths) == 1


async def test_what_is_no_picture_is_refused(server: MediaServer) -> None:
    assert "a picture, got text/html" in await refused(server.url("page.html"))
    assert "without content encoding" in await refused(server.url("squeezed.png"))
    assert "status 200, got 404" in await refused(server.url("nothing"))


async def test_what_is_too_large_is_dropped_while_it_comes(server: MediaServer) -> None:
    small = replace(POLICY, max_bytes=len(CAT) - 1)

    assert f"at most {len(CAT) - 1} bytes" in await refused(server.url("cat.png"), small)
    assert "at most 200000 bytes" in await refused(server.url("endless.png"))


@pytest.mark.parametrize("path", ["slow.png", "silent.png"])
async def test_what_is_too_slow_is_given_up(server: MediaServer, path: str) -> None:
    hurried = replace(POLICY, timeout_s=0.2)

    assert "within 0.2 s" in await refused(server.url(path), hurried)


async def test_a_cancelled_fetch_leaves_no_connection(server: MediaServer) -> None:
    async with MediaFetcher(POLICY, FakeResolver({})) as fetcher:
        fetching = asyncio.create_task(fetcher.fetch(server.url("silent.png")))
        while not server.paths:  # noqa: ASYNC110 - the server sets no event of this test
            await asyncio.sleep(0.005)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching

        assert await fetcher.fetch(server.url("cat.png")) == CAT


async def test_hosts_that_are_not_there_are_told(server: MediaServer) -> None:
    assert "can be fetched" in await refused("http://nowhere.test/cat.png")
    assert "can be fetched" in await refused("http://127.0.0.1:1/cat.png")


async def test_a_data_url_is_its_bytes() -> None:
    assert await fetch(data_url(picture(1))) == CAT
    assert await fetch("DATA:image/png;base64," + base64.b64encode(CAT).decode()) == CAT
    assert await fetch("data:image/gif,%00%01a") == b"\x00\x01a"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64", "data:image/...;base64"),
        ("data:text/html;base64,AAAA", "data:image/...;base64"),
        ("data:,hello", "data:image/...;base64"),
        ("data:image/png;base64,A*A=", "base64 after the comma"),
        ("data:image/png;base64," + "A" * 300_000, "at most 200000 bytes"),
        ("data:image/png;base64," + "A" * 600_000, "at most 200000 bytes"),
        ("http://[broken/", "a URL"),
    ],
    ids=lambda value: value[:30],
)
async def test_a_wrong_url_is_refused_in_words(url: str, words: str) -> None:
    message = await refused(url)

    assert words in message
    assert len(message) < 300


async def test_data_urls_can_be_switched_off() -> None:
    policy = replace(POLICY, schemes=frozenset({"https"}))

    assert "a URL of https:" in await refused(data_url(picture(1)), policy)
