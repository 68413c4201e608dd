"""Tenants' keys, and the tokens that only their holders can read.

    # tenant  256 bits in hex
    acme      8f0c...      the first key of a tenant seals, all of them open
    acme      41d7...
    *         77ab...      for every tenant without a line of its own

Tokens are sealed with AES-256-GCM under a key derived (HKDF-SHA-256) from the
tenant's for one run of the publisher, so that counted nonces never repeat:

    nonce on the wire   16 random bytes of this run | 8 bytes, counted
    authenticated too   the stream, the epoch, and what the tokens belong to

Knows no frames.  Safe for threads.
"""

from __future__ import annotations

import hashlib
import secrets
from array import array
from itertools import count

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shepherd_events.errors import CodecError, CredentialsError
from shepherd_events.events import SealedTokens
from shepherd_events.key_files import read_secret

ANY_TENANT = "*"
_KEY_BYTES, _SALT_BYTES, _COUNTER_BYTES = 32, 16, 8
_MAX_DERIVED = 1024


class TenantKeys:
    """What a file of keys holds."""

    def __init__(self, keys: dict[str, list[bytes]]) -> None:
        """`keys` are 32 bytes each, by tenant, the sealing one first."""
        self._keys = keys
        self._by_id = {key_id(key): key for each in keys.values() for key in each}
        self._derived: dict[tuple[bytes, bytes], AESGCM] = {}

    @classmethod
    def load(cls, path: str) -> TenantKeys:
        """Read a file of mode 0600.

        Raises:
            CredentialsError: it cannot be read, others may use it, or a line is no key.
        """
        keys: dict[str, list[bytes]] = {}
        for number, line in enumerate(read_secret(path).splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                tenant, text = words
                key = bytes.fromhex(text)
            except ValueError:
                key, tenant = b"", ""
            if len(key) != _KEY_BYTES:
                raise CredentialsError(path, f"line {number}: expected TENANT and 64 hex digits")
            keys.setdefault(tenant, []).append(key)
        if not keys:
            raise CredentialsError(path, "holds no key")
        return cls(keys)

    def sealing(self, tenant: str) -> bytes | None:
        """The key that a tenant's tokens are sealed with; None if there is none."""
        keys = self._keys.get(tenant) or self._keys.get(ANY_TENANT)
        return keys[0] if keys else None

    def open(self, sealed: SealedTokens, belongs_to: bytes) -> array[int] | None:
        """The tokens; None where the key is not here.

        Raises:
            CodecError: they were changed, or belong to something else.
        """
        key = self._by_id.get(sealed.key_id)
        if key is None:
            return None
        salt, counter = sealed.nonce[:_SALT_BYTES], sealed.nonce[_SALT_BYTES:]
        try:
            plain = self._cipher(key, salt).decrypt(
                counter.rjust(12, b"\0"), sealed.ciphertext, belongs_to
            )
            return array("I", plain)
        except (InvalidTag, ValueError) as error:
            raise CodecError("sealed", "not what was sealed for this place") from error

    def _cipher(self, key: bytes, salt: bytes) -> AESGCM:
        cipher = self._derived.get((key, salt))
        if cipher is None:
            if len(self._derived) >= _MAX_DERIVED:
                self._derived.clear()
            cipher = self._derived[key, salt] = derive(key, salt)
        return cipher


class Sealer:
    """Seals tokens for one run of a publisher."""

    def __init__(self, keys: TenantKeys) -> None:
        self._keys = keys
        self._salt = secrets.token_bytes(_SALT_BYTES)
        self._ciphers: dict[bytes, AESGCM] = {}
        self._counter = count(1)

    def seal(self, tenant: str, tokens: array[int], belongs_to: bytes) -> SealedTokens | None:
        """The tokens as only the tenant's key opens them; None where it has no key."""
        key = self._keys.sealing(tenant)
        if key is None:
            return None
        if key not in self._ciphers:
            self._ciphers[key] = derive(key, self._salt)
        counter = next(self._counter).to_bytes(_COUNTER_BYTES, "big")
        sealed = self._ciphers[key].encrypt(counter.rjust(12, b"\0"), tokens.tobytes(), belongs_to)
        return SealedTokens(key_id(key), self._salt + counter, sealed)


def derive(key: bytes, salt: bytes) -> AESGCM:
    """The cipher of one key for one run of a publisher."""
    return AESGCM(HKDF(SHA256(), _KEY_BYTES, salt, b"shepherd kv tokens 1").derive(key))


def key_id(key: bytes) -> bytes:
    """Which key it is, without saying what it is."""
    return hashlib.sha256(b"shepherd kv key id" + key).digest()[:8]
