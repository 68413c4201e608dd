"""JSON Web Tokens: what a token must say, and which tricks do not work."""

from __future__ import annotations

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from shepherd_auth.authenticator import Authenticator
from shepherd_auth.errors import CredentialError, CredentialFileError
from shepherd_auth.identity import Identity, Scope
from shepherd_auth.tokens import TokenPolicy, TokenVerifier, read_verifier

POLICY = TokenPolicy("https://id.example", "shepherd")
SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def rsa() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def jwks(tmp_path: Path, rsa: RSAPrivateKey, ed25519: Ed25519PrivateKey) -> Path:
    keys: list[dict[str, Any]] = [
        RSAAlgorithm.to_jwk(rsa.public_key(), as_dict=True) | {"kid": "r"},
        OKPAlgorithm.to_jwk(ed25519.public_key(), as_dict=True) | {"kid": "e"},
        HMACAlgorithm.to_jwk(SECRET, as_dict=True) | {"kid": "h"},
    ]
    return written(tmp_path, keys)


def written(directory: Path, keys: list[dict[str, Any]], mode: int = 0o600) -> Path:
    path = directory / "jwks.json"
    path.write_text(json.dumps({"keys": keys}))
    path.chmod(mode)
    return path


@pytest.fixture
def verifier(jwks: Path) -> TokenVerifier:
    return read_verifier(jwks, POLICY)


def claims(**changes: Any) -> dict[str, Any]:
    said = {
        "iss": POLICY.issuer,
        "aud": POLICY.audience,
        "exp": int(time.time()) + 300,
        "sub": "ann",
        "tenant": "acme",
        "scope": "read write email",
    }
    return {name: value for name, value in (said | changes).items() if value is not None}


def by_hmac(said: dict[str, Any], key: bytes = SECRET, kid: str | None = "h") -> str:
    return jwt.encode(said, key, "HS256", headers={"kid": kid} if kid else None)


def test_each_kind_of_key_verifies_its_own_tokens(
    verifier: TokenVerifier, rsa: RSAPrivateKey, ed25519: Ed25519PrivateKey
) -> None:
    tokens = [
        jwt.encode(claims(), rsa, "RS256", headers={"kid": "r"}),
        jwt.encode(claims(), ed25519, "EdDSA", headers={"kid": "e"}),
        by_hmac(claims()),
    ]

    expected = Identity("acme", "jwt:ann", frozenset({Scope.READ, Scope.WRITE}))
    assert [verifier.verify(token) for token in tokens] == [expected] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "invalid"),
        ({"nbf": 4_000_000_000}, "invalid"),
        ({"iss": "https://evil.example"}, "invalid"),
        ({"iss": None}, "invalid"),
        ({"aud": "another-service"}, "invalid"),
        ({"aud": None}, "invalid"),
        ({"tenant": None}, "invalid"),
        ({"tenant": "*"}, "invalid"),
        ({"tenant": ""}, "invalid"),
        ({"tenant": ["acme"]}, "invalid"),
        ({"tenant": "\u0430cme"}, "invalid"),
    ],
)
def test_a_token_that_does_not_say_what_it_must_is_refused(
    verifier: TokenVerifier, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CredentialError) as refused:
        verifier.verify(by_hmac(claims(**changes)))

    assert refused.value.reason == reason


def by_hand(algorithm: str, said: dict[str, Any], key: bytes | None = None) -> str:
    """A token that names the RSA key, signed with anything or nothing."""
    parts = ({"alg": algorithm, "kid": "r"}, said)
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    signature = b"" if key is None else hmac.digest(key, signed, "sha256")
    return b".".join((signed, _base64(signature))).decode()


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def test_the_key_decides_the_algorithm_and_not_the_token(
    verifier: TokenVerifier, rsa: RSAPrivateKey
) -> None:
    shared = rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    tricks = [
        by_hand("none", claims()),
        by_hand("HS256", claims(), shared),
        by_hmac(claims(), kid="e"),
        by_hmac(claims(), key=bytes(32)),
        by_hmac(claims(), kid="x"),
        by_hmac(claims(), kid=None),
        jwt.encode(claims(), rsa, "RS512", headers={"kid": "r"}),
        "",
        "a.b.c",
        "x" * 9000,
    ]

    for token in tricks:
        with pytest.raises(CredentialError):
            verifier.verify(token)


def test_scopes_may_be_a_list_and_unknown_ones_give_nothing(verifier: TokenVerifier) -> None:
    assert verifier.verify(by_hmac(claims(scope=["admin", "root"]))).scopes == {Scope.ADMIN}
    assert verifier.verify(by_hmac(claims(scope=None))).scopes == frozenset()


@pytest.mark.parametrize(
    ("keys", "mode", "problem"),
    [
        ([], 0o600, "holds no key"),
        ([5], 0o600, "key 0: expected an object"),
        ([{"kty": "EC"}], 0o600, "key 0: expected kty RSA"),
        ([{"kty": "RSA", "alg": "HS256"}], 0o600, "key 0: expected kty RSA"),
        ([{"kty": "oct", "k": "c2hvcnQ"}], 0o600, "at least 256 bits"),
        ([{"kty": "oct", "k": "A" * 43}], 0o644, "others may read"),
        ([{"kty": "OKP", "crv": "Ed25519", "x": "!"}], 0o600, "key 0 cannot be used"),
    ],
)
def test_what_is_wrong_with_a_key_set_is_said(
    tmp_path: Path, keys: list[Any], mode: int, problem: str
) -> None:
    with pytest.raises(CredentialFileError, match=problem):
        read_verifier(written(tmp_path, keys, mode), POLICY)


def test_tokens_and_keys_go_through_the_same_door(verifier: TokenVerifier) -> None:
    door = Authenticator(tokens=lambda: verifier, now_unix_s=time.time)

    assert door.identify({"authorization": f"Bearer {by_hmac(claims())}"}).tenant == "acme"
    with pytest.raises(CredentialError):
        door.identify({"authorization": "Bearer shp_" + "0" * 12 + "_" + "0" * 64})
