"""The bytes behind a client's URL, within the operator's limits.

Whatever goes wrong is the client's to know: every failure is an
`InvalidRequestError` that names the URL and what was expected.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from types import TracebackType
from typing import Self
from urllib.parse import unquote_to_bytes

import aiohttp
from yarl import URL

from shepherd_config.outbound import CheckedResolver, Resolver, SystemResolver
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.media.policy import FIELD, MediaPolicy, shown

MAX_CONNECTIONS = 16
_CHUNK_BYTES = 1 << 16
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "shepherd-worker"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class MediaFetcher:
    """Fetches pictures; an asynchronous context manager that owns its connections.

    Follows no proxy, keeps no cookie and sends no credential.
    """

    def __init__(self, policy: MediaPolicy, resolver: Resolver | None = None) -> None:
        self._policy = policy
        self._resolver = resolver or SystemResolver()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        checked = CheckedResolver(self._resolver, self._policy.check_addresses)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=checked, use_dns_cache=False, limit=MAX_CONNECTIONS, force_close=True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, url: str) -> bytes:
        """The bytes that a URL stands for.

        Raises:
            InvalidRequestError: it is refused, fails, or is too large or too slow.
        """
        if url[:5].lower() == "data:":
            self._policy.check_scheme("data", url)
            return _decode_data_url(url, self._policy.max_bytes)
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                return await self._follow(_parse(url))
        except TimeoutError:
            limit = f"a picture within {self._policy.timeout_s:g} s"
            raise InvalidRequestError(FIELD, shown(url), limit) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = f"a URL that can be fetched: {type(error).__name__}"
            raise InvalidRequestError(FIELD, shown(url), reason) from error

    async def _follow(self, url: URL) -> bytes:
        assert self._session is not None
        for _ in range(self._policy.max_redirects + 1):
            self._policy.check_url(url)
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response)
                url = url.join(_parse(response.headers.get("Location", "")))
        limit = f"at most {self._policy.max_redirects} redirects"
        raise InvalidRequestError(FIELD, shown(str(url)), limit)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        url = shown(str(response.url))
        if response.status != 200:
            raise InvalidRequestError(FIELD, url, f"status 200, got {response.status}")
        kind = response.content_type
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise InvalidRequestError(FIELD, url, f"a picture, got {kind}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise InvalidRequestError(FIELD, url, "a body without content encoding")
        limit = self._policy.max_bytes
        if (response.content_length or 0) > limit:
            raise too_large(url, limit)
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > limit:
                raise too_large(url, limit)
        return bytes(body)


def too_large(url: str, limit: int) -> InvalidRequestError:
    """What a picture of more than `limit` bytes is told."""
    return InvalidRequestError(FIELD, shown(url), f"a picture of at most {limit} bytes")


def _parse(url: str) -> URL:
    try:
        return URL(url)
    except ValueError as error:
        raise InvalidRequestError(FIELD, shown(url), f"a URL: {error}") from None


def _decode_data_url(url: str, limit: int) -> bytes:
    head, comma, body = url.partition(",")
    kind, *parameters = head[5:].lower().split(";")
    if not comma or not kind.startswith("image/"):
        raise InvalidRequestError(FIELD, shown(url), "data:image/...;base64,...")
    if len(body) > limit * 2:  # base64 takes 4/3, percent signs are rare
        raise too_large(url, limit)
    try:
        is_base64 = "base64" in (parameter.strip() for parameter in parameters)
        data = unquote_to_bytes(body)
        data = base64.b64decode(data, validate=True) if is_base64 else data
    except (binascii.Error, ValueError):
        raise InvalidRequestError(FIELD, shown(url), "base64 after the comma") from None
    if len(data) > limit:
        raise too_large(url, limit)
    return data
