"""A caller, once the credential has been verified."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from shepherd_auth.errors import PermissionDeniedError

ANY_TENANT: Final = "*"
"""The tenant of a credential that may act for each of them, one at a time."""

LOCAL_TENANT: Final = "local"
"""Whose requests carry no credential, on loopback, where none are set up."""

_TENANT = re.compile(r"[\x21-\x7e]{1,128}")


class Scope(StrEnum):
    """What a credential allows; none of them includes another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    """Erase a whole tenant; of a credential for any tenant: run the service."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, for whom, and what they may do."""

    tenant: str
    """`ANY_TENANT` only before `narrowed`."""
    subject: str
    """The key's id or the token's subject: what the audit log calls the caller."""
    scopes: frozenset[Scope]

    @property
    def is_operator(self) -> bool:
        """Whether the credential is for running the service, not for one tenant."""
        return self.tenant == ANY_TENANT and Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Go on only with a scope.

        Raises:
            PermissionDeniedError: the credential does not have it.
        """
        if scope not in self.scopes:
            raise PermissionDeniedError(scope, f"the credential does not have the scope {scope}")

    def narrowed(self, wanted: str | None) -> Identity:
        """The same caller for exactly one tenant; `wanted` is what a header names, if one does.

        Raises:
            PermissionDeniedError: the credential is for another tenant, or for any and none is named.
        """
        if self.tenant == ANY_TENANT:
            if wanted is None or not is_tenant(wanted):
                raise PermissionDeniedError(
                    "tenant", "the credential is for any tenant: name one in x-shepherd-tenant"
                )
            return replace(self, tenant=wanted)
        if wanted is not None and wanted != self.tenant:
            raise PermissionDeniedError("tenant", "the credential is for another tenant")
        return self


LOCAL: Final = Identity(LOCAL_TENANT, "loopback", frozenset(Scope))
"""Everybody, where no credentials are set up and only this machine can ask."""


def is_tenant(name: str) -> bool:
    """Whether a name can be a tenant's: visible ASCII, so that no two look alike."""
    return name != ANY_TENANT and _TENANT.fullmatch(name) is not None
