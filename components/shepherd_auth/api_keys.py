"""API keys: 256 random bits behind a public id, kept as a hash.

    shp_3f9a1c0b7d2e_8b1f...      id: 48 bits, for lists, logs and revoking
                                  secret: 256 bits, shown once, never kept

A plain SHA-256 is enough for a secret that nobody can guess; there is nothing
for a slow hash to slow down.  No I/O, no clock.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from shepherd_auth.errors import CredentialError
from shepherd_auth.identity import ANY_TENANT, Identity, Scope, is_tenant

PREFIX = "shp_"
_KEY = re.compile(r"shp_([0-9a-f]{12})_[0-9a-f]{64}")
_NO_DIGEST = "0" * 64
"""Compared with where no key has the id, so that both take the same time."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is kept; whoever reads this cannot use it."""

    key_id: str
    name: str
    """What it is for, in its maker's words."""
    tenant: str
    """`ANY_TENANT` for the gateway and the operator."""
    scopes: frozenset[Scope]
    digest: str
    """SHA-256 in hex of the whole key."""
    created_unix_s: int
    expires_unix_s: int | None = None

    def is_expired(self, now_unix_s: float) -> bool:
        """Whether its time is over."""
        return self.expires_unix_s is not None and now_unix_s >= self.expires_unix_s


def issue(
    *,
    name: str,
    tenant: str,
    scopes: Iterable[Scope],
    now_unix_s: int,
    expires_unix_s: int | None,
    random_bytes: Callable[[int], bytes],
) -> tuple[ApiKey, str]:
    """A new key, and the text that its holder shows.

    Raises:
        ValueError: no tenant can have that name, or there is no scope.
    """
    if tenant != ANY_TENANT and not is_tenant(tenant):
        raise ValueError(f"tenant {tenant!r}: expected 1 to 128 visible ASCII characters, or *")
    granted = frozenset(scopes)
    if not granted:
        raise ValueError(f"scopes: expected at least one of {', '.join(Scope)}")
    key_id = random_bytes(6).hex()
    text = f"{PREFIX}{key_id}_{random_bytes(32).hex()}"
    key = ApiKey(key_id, name, tenant, granted, _digest(text), now_unix_s, expires_unix_s)
    return key, text


def retiring(key: ApiKey, at_unix_s: int) -> ApiKey:
    """The key with at most until then to live."""
    ends = at_unix_s if key.expires_unix_s is None else min(key.expires_unix_s, at_unix_s)
    return replace(key, expires_unix_s=ends)


class KeyRing:
    """The keys that are accepted."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._by_id = {key.key_id: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_id)

    def verify(self, text: str, now_unix_s: float) -> Identity:
        """Whose key it is.

        Raises:
            CredentialError: it has not the form of a key, is not one of ours, or is over.
        """
        form = _KEY.fullmatch(text)
        if form is None:
            raise CredentialError("malformed", "not an API key of this service")
        key = self._by_id.get(form[1])
        digest = _NO_DIGEST if key is None else key.digest
        if not hmac.compare_digest(_digest(text), digest) or key is None:
            raise CredentialError("unknown", "not an API key of this service")
        if key.is_expired(now_unix_s):
            raise CredentialError("expired", f"API key {key.key_id} has expired")
        return Identity(key.tenant, f"key:{key.key_id}", key.scopes)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
