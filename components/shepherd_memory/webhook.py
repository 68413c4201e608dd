"""Posts notices to an address of the tenant's, signed.

    webhook-id: <notice id>          the same however often it is sent
    webhook-timestamp: <unix s>
    webhook-signature: v1,<base64 of HMAC-SHA-256(secret, "id.timestamp.body")>

Any 2xx takes the notice; 408, 425, 429, 5xx, a timeout or no answer ask for
another try; every other status refuses it.  Redirects are not followed.  The
address is resolved once per connection and connected to as it was checked: it
must be public, unless the operator named its host.

Source: the headers are those of the Standard Webhooks specification.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import TypeAdapter, ValidationError

from shepherd_auth.errors import CredentialFileError
from shepherd_auth.private_file import read_private
from shepherd_config.outbound import (
    CheckedResolver,
    Resolver,
    SystemResolver,
    looks_numeric,
    may_be_reached,
)
from shepherd_memory.archive.records import StoredNotice
from shepherd_memory.delivery import SinkRefusedError, SinkUnavailableError
from shepherd_memory.models import NoticeModel

TIMEOUT_S = 10.0
_RETRIED = frozenset({408, 425, 429})
_SECRET_PREFIX = "whsec_"  # noqa: S105  what secrets of this kind begin with
_MIN_SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a tenant's notices go."""

    tenant: str
    url: str
    secret: str = field(repr=False)
    """`whsec_` and base64 of at least 24 bytes."""

    @property
    def key(self) -> bytes:
        """What signs.

        Raises:
            ValueError: the secret has another form.
        """
        if not self.secret.startswith(_SECRET_PREFIX):
            raise ValueError(f"expected a secret that begins with {_SECRET_PREFIX}")
        key = base64.b64decode(self.secret.removeprefix(_SECRET_PREFIX), validate=True)
        if len(key) < _MIN_SECRET_BYTES:
            raise ValueError(f"expected a secret of at least {_MIN_SECRET_BYTES} bytes")
        return key


_WEBHOOKS = TypeAdapter(list[Webhook])


def read_webhooks(path: Path) -> tuple[Webhook, ...]:
    """The webhooks in a JSON file of mode 0600: a list of objects with tenant, url, secret.

    Raises:
        CredentialFileError: it cannot be read, others may read it, or an entry is wrong.
    """
    try:
        webhooks = _WEBHOOKS.validate_json(read_private(path))
    except ValidationError as error:
        raise CredentialFileError(
            str(path), "is not a list of objects with tenant, url and secret"
        ) from error
    for place, webhook in enumerate(webhooks):
        parts = urlsplit(webhook.url)
        if parts.scheme not in {"https", "http"} or not parts.hostname or "@" in parts.netloc:
            raise CredentialFileError(
                str(path), f"entry {place}: expected an http(s) URL without credentials"
            )
        try:
            webhook.key  # noqa: B018  says what is wrong with it
        except (ValueError, binascii.Error) as error:
            raise CredentialFileError(str(path), f"entry {place}: {error}") from error
    if len({webhook.tenant for webhook in webhooks}) < len(webhooks):
        raise CredentialFileError(str(path), "has two entries for one tenant")
    return tuple(webhooks)


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """What proves that a message is ours and new."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Outwards:
    """Connections to checked addresses only; an asynchronous context manager that owns them.

    Follows no proxy, keeps no cookie.
    """

    def __init__(self, allowed_hosts: frozenset[str], resolver: Resolver | None = None) -> None:
        self._allowed_hosts = allowed_hosts
        self._resolver = resolver or SystemResolver()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=CheckedResolver(self._resolver, self._check), use_dns_cache=False
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post to an address that may be reached; returns the status, follows no redirect.

        Raises:
            SinkRefusedError: it may not be reached.
            aiohttp.ClientError, OSError, TimeoutError: nobody answers.
        """
        host = urlsplit(url).hostname or ""
        if looks_numeric(host):
            self._check(host, [host])
        async with self._session.post(
            url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            return answer.status

    def _check(self, host: str, addresses: Iterable[str]) -> None:
        if not may_be_reached(host, addresses, self._allowed_hosts):
            raise SinkRefusedError(
                f"{host} is neither on the public internet nor one of --webhook-allow-hosts"
            )


class WebhookSink:
    """`Sink` over HTTP."""

    name = "webhook"

    def __init__(
        self, webhook: Webhook, outwards: Outwards, now_unix_s: Callable[[], float]
    ) -> None:
        self._webhook = webhook
        self._outwards = outwards
        self._now_unix_s = now_unix_s

    async def deliver(self, row: StoredNotice) -> None:
        """See `Sink.deliver`."""
        notice = NoticeModel.of(row)
        body = json.dumps({"type": "notice", "data": notice.model_dump(mode="json")}).encode()
        timestamp = int(self._now_unix_s())
        headers = {
            "content-type": "application/json",
            "webhook-id": notice.notice_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._webhook.key, notice.notice_id, timestamp, body),
        }
        try:
            status = await self._outwards.post(self._webhook.url, body, headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SinkUnavailableError(f"no answer: {type(error).__name__}") from error
        _judge(status)


def _judge(status: int) -> None:
    if 200 <= status < 300:
        return
    if status >= 500 or status in _RETRIED:
        raise SinkUnavailableError(f"status {status}")
    raise SinkRefusedError(f"status {status}")
