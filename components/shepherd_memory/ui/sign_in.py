"""API keys and tokens that a cookie stands for.

    sign in     the credential is kept here, the browser gets a random name for it
    request     the name is looked up, the credential is shown to the gate as any header is
    sign out    the name is forgotten

The cookie never holds the credential and no script can read it.  A key that is
revoked is refused at the next request, since the gate asks anew each time.
Names are kept in this process, as hashes; a restart forgets them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from shepherd_auth.authenticator import TENANT_HEADER

Header = tuple[bytes, bytes]

COOKIE = "shepherd_memory"
LIFETIME_S = 12 * 3600
MAX_SIGN_INS = 1000
"""Of more, the oldest is signed out."""
_CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", TENANT_HEADER.encode()})


@dataclass(frozen=True, slots=True)
class SignIn:
    """What was entered."""

    credential: str = field(repr=False)
    tenant: str
    """For a credential that may act for any tenant; empty for all others."""
    began_s: float

    def shown_in(self, headers: Sequence[Header]) -> list[Header]:
        """The headers of a request with this credential in place of any other."""
        shown = [
            *without_credential(headers),
            (b"authorization", _encoded(f"Bearer {self.credential}")),
        ]
        if self.tenant:
            shown.append((TENANT_HEADER.encode(), _encoded(self.tenant)))
        return shown


class SignIns:
    """Who is signed in; event loop only."""

    def __init__(
        self,
        *,
        monotonic_s: Callable[[], float],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        max_sign_ins: int = MAX_SIGN_INS,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._random_bytes = random_bytes
        self._max_sign_ins = max_sign_ins
        self._secret = random_bytes(32)
        self._sign_ins: OrderedDict[bytes, SignIn] = OrderedDict()

    def begin(self, credential: str, tenant: str) -> str:
        """Keep a credential that the gate has accepted; returns the cookie."""
        cookie = self._random_bytes(32).hex()
        self._sign_ins[_digest(cookie)] = SignIn(credential, tenant, self._monotonic_s())
        while len(self._sign_ins) > self._max_sign_ins:
            self._sign_ins.popitem(last=False)
        return cookie

    def of(self, cookie: str) -> SignIn | None:
        """What a cookie stands for; None where that is over or never was."""
        found = self._sign_ins.get(_digest(cookie))
        if found is not None and self._monotonic_s() - found.began_s >= LIFETIME_S:
            self.end(cookie)
            return None
        return found

    def end(self, cookie: str) -> None:
        """Forget it; again is harmless."""
        self._sign_ins.pop(_digest(cookie), None)

    def form_token(self, cookie: str) -> str:
        """What a form shows to prove that a page of this cookie held it."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()


class CookieCredential:
    """ASGI middleware: the credential of a request is what its cookie stands for, and nothing else."""

    def __init__(self, app: ASGIApp, sign_ins: SignIns) -> None:
        self._app = app
        self._sign_ins = sign_ins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, with the headers that the credential would have come in."""
        if scope["type"] == "http":
            found = self._sign_ins.of(cookie_of(Headers(scope=scope)))
            given = scope["headers"]
            shown = found.shown_in(given) if found else without_credential(given)
            scope = {**scope, "headers": shown}
        await self._app(scope, receive, send)


def without_credential(headers: Sequence[Header]) -> list[Header]:
    """The headers that say nothing of who asks."""
    return [each for each in headers if each[0] not in _CREDENTIAL_HEADERS]


def cookie_of(headers: Headers) -> str:
    """Our cookie; empty where there is none."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def _encoded(value: str) -> bytes:
    return value.encode("latin-1", "replace")


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
