"""A tenant's cache salt, and the name by which its events go.

    tenant ── HMAC(secret) ──► cache salt ── BLAKE2b ──► name on the stream, 16 hex digits
              the gateway's      in requests, enters       `Attribution.tenant`, and the
              and memory's       every block hash          name of the tenant's archive

The gateway salts, the worker names, the memory derives the same name from the
tenant of a credential.  Nobody has to know all tenants, nothing has to be looked
up, and neither salt nor name tells the tenant to those without the secret.  The
secret is for good: another one gives every tenant another, empty archive.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from shepherd_auth.errors import CredentialFileError
from shepherd_auth.identity import LOCAL_TENANT
from shepherd_auth.private_file import read_private
from shepherd_events.block_hash import salt_id

_DOMAIN = b"shepherd tenant salt 1\0"
_SECRET_BYTES = 32


class TenantSalts:
    """What one secret makes of tenants."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def load(cls, path: str) -> TenantSalts:
        """Read a file of mode 0600 with 64 hex digits.

        Raises:
            CredentialFileError: it cannot be read, others may read it, or it is no secret.
        """
        try:
            secret = bytes.fromhex(read_private(Path(path).expanduser()).decode())
        except ValueError:
            secret = b""
        if len(secret) != _SECRET_BYTES:
            raise CredentialFileError(path, "is no secret: expected 64 hex digits")
        return cls(secret)

    def salt_of(self, tenant: str) -> str:
        """The cache salt of the tenant's requests; none for `local`."""
        if tenant == LOCAL_TENANT:
            return ""
        return hmac.new(self._secret, _DOMAIN + tenant.encode(), hashlib.sha256).hexdigest()

    def stream_name_of(self, tenant: str) -> str:
        """What workers call the tenant in their events."""
        salt = self.salt_of(tenant)
        return salt_id(salt).hex() if salt else LOCAL_TENANT
