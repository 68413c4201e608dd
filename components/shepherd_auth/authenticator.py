"""From the headers of a request to an identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from shepherd_auth.api_keys import PREFIX, KeyRing
from shepherd_auth.errors import CredentialError
from shepherd_auth.identity import LOCAL, Identity

if TYPE_CHECKING:
    from shepherd_auth.tokens import TokenVerifier

TENANT_HEADER = "x-shepherd-tenant"
"""Names the tenant that a credential for any tenant acts for."""


class Authenticator:
    """Accepts API keys, tokens, both, or, with neither, everybody as `LOCAL`."""

    def __init__(
        self,
        *,
        keys: Callable[[], KeyRing] | None = None,
        tokens: Callable[[], TokenVerifier] | None = None,
        now_unix_s: Callable[[], float],
    ) -> None:
        """`keys` and `tokens` give what is accepted now."""
        self._keys = keys
        self._tokens = tokens
        self._now_unix_s = now_unix_s

    @property
    def is_open(self) -> bool:
        """Whether there are no credentials: for listeners on loopback only."""
        return self._keys is None and self._tokens is None

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Who sends these headers; their names are in lower case, or the mapping ignores case.

        Raises:
            CredentialError: there is no valid credential.
        """
        if self.is_open:
            return LOCAL
        text = _credential(headers)
        if text.startswith(PREFIX) and self._keys is not None:
            return self._keys().verify(text, self._now_unix_s())
        if self._tokens is not None:
            return self._tokens().verify(text)
        raise CredentialError("malformed", "not an API key of this service")


def _credential(headers: Mapping[str, str]) -> str:
    given = headers.get("authorization", "")
    scheme, _, text = given.partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    if given:
        raise CredentialError("malformed", "expected Authorization: Bearer KEY")
    if key := headers.get("x-api-key", "").strip():
        return key
    raise CredentialError("missing", "expected Authorization: Bearer KEY")
