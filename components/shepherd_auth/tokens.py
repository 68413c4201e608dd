"""JSON Web Tokens, verified with keys from a local JWKS file.

The key decides the algorithm, never the token: an RSA key verifies RS256, an
Ed25519 key EdDSA, a symmetric one HS256.  A token must say who issued it, for
whom, until when, and whose tenant it is for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from shepherd_auth.errors import CredentialError, CredentialFileError
from shepherd_auth.identity import Identity, Scope, is_tenant
from shepherd_events.key_files import others_may_use

ALGORITHM_OF = {"RSA": "RS256", "OKP": "EdDSA", "oct": "HS256"}
LEEWAY_S = 30
"""How far two clocks may differ."""
MAX_TOKEN_CHARS = 8192
_MIN_SECRET_CHARS = 43
"""Of a symmetric key in base64: 256 bits."""


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a token must say."""

    issuer: str
    audience: str
    tenant_claim: str = "tenant"
    """The claim that names the tenant."""
    scope_claim: str = "scope"
    """The claim with words among read, write and admin; other words are ignored."""


class TokenVerifier:
    """Keys by their id."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK], policy: TokenPolicy) -> None:
        self._keys = dict(keys)
        self._policy = policy

    def verify(self, token: str) -> Identity:
        """Whose token it is.

        Raises:
            CredentialError: it cannot be read, its signature or a claim is wrong, its time is over.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise CredentialError("malformed", f"a token has at most {MAX_TOKEN_CHARS} characters")
        try:
            key = self._key_of(token)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._policy.audience,
                issuer=self._policy.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"], "strict_aud": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise CredentialError("expired", "the token has expired") from error
        except jwt.InvalidTokenError as error:
            raise CredentialError("invalid", "the token is not valid for this service") from error
        return self._identity(claims)

    def _key_of(self, token: str) -> jwt.PyJWK:
        name = jwt.get_unverified_header(token).get("kid")
        if name is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if not isinstance(name, str) or name not in self._keys:
            raise CredentialError(
                "unknown", "the token was signed with a key that is not known here"
            )
        return self._keys[name]

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        tenant = claims.get(self._policy.tenant_claim)
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise CredentialError(
                "invalid", f"the token's claim {self._policy.tenant_claim!r} does not name a tenant"
            )
        said = claims.get(self._policy.scope_claim, "")
        words = said.split() if isinstance(said, str) else [str(word) for word in said or ()]
        scopes = frozenset(scope for scope in Scope if scope.value in words)
        return Identity(tenant, f"jwt:{claims.get('sub', '')}"[:128], scopes)


def read_verifier(path: Path, policy: TokenPolicy) -> TokenVerifier:
    """The keys of a JWKS file.

    Raises:
        CredentialFileError: it cannot be read, holds a secret that others may read, or a key that
            cannot be used.
    """
    try:
        status, listed = path.stat(), json.loads(path.read_bytes())["keys"]
    except OSError as error:
        raise CredentialFileError(str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CredentialFileError(str(path), 'is not a JWKS: expected {"keys": [...]}') from error
    is_shared = others_may_use(status.st_mode, status.st_uid, os.geteuid())
    keys: dict[str, jwt.PyJWK] = {}
    for place, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise CredentialFileError(str(path), f"key {place}: expected an object")
        if ("k" in entry or "d" in entry) and is_shared:
            raise CredentialFileError(str(path), "holds a secret that others may read: chmod 600")
        keys[str(entry.get("kid", place))] = _key(path, place, entry)
    if not keys:
        raise CredentialFileError(str(path), "holds no key")
    return TokenVerifier(keys, policy)


def _key(path: Path, place: int, entry: dict[str, Any]) -> jwt.PyJWK:
    algorithm = ALGORITHM_OF.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        raise CredentialFileError(
            str(path), f"key {place}: expected kty RSA (RS256), OKP (EdDSA) or oct (HS256)"
        )
    if algorithm == "HS256" and len(str(entry.get("k", ""))) < _MIN_SECRET_CHARS:
        raise CredentialFileError(str(path), f"key {place}: a secret has at least 256 bits")
    try:
        return jwt.PyJWK(entry, algorithm)
    except jwt.PyJWTError as error:
        raise CredentialFileError(str(path), f"key {place} cannot be used: {error}") from error
