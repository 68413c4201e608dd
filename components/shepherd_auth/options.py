"""The options of a process that takes credentials, and what they make together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shepherd_auth.api_keys import KeyRing
from shepherd_auth.audit import Audit, AuditLog, NoAudit
from shepherd_auth.authenticator import Authenticator
from shepherd_auth.errors import CredentialFileError
from shepherd_auth.key_file import read_ring
from shepherd_auth.tenant_salts import TenantSalts
from shepherd_auth.watched_file import Reloaded, WatchedFile, nobody_told
from shepherd_config import OptionError, option
from shepherd_config.addresses import is_loopback

if TYPE_CHECKING:
    from shepherd_auth.tokens import TokenVerifier

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessOptions:
    """Who may ask, and how often; inherited by configurations."""

    api_keys_file: str = option(
        "File of mode 600 with API keys, as `shepherd memory keys` writes it; empty accepts none.",
        default="",
        group="access",
    )
    jwks_file: str = option(
        "File with the keys (JWKS) that JSON Web Tokens are verified with; empty accepts none.",
        default="",
        group="access",
    )
    jwt_issuer: str = option("Issuer that a token must name.", default="", group="access")
    jwt_audience: str = option("Audience that a token must name.", default="", group="access")
    jwt_tenant_claim: str = option(
        "Claim of a token that names the tenant.", default="tenant", group="access"
    )
    tenant_salt_file: str = option(
        "File of mode 600 with 64 hex digits that tenants' cache salts are made with; "
        "the same for gateway and memory, for good.",
        default="",
        group="access",
    )
    rate_limit_per_s: float = option(
        "Requests a second that a tenant may make; 0 is without limit.",
        default=200.0,
        minimum=0,
        group="access",
        unit="requests a second",
    )
    rate_limit_burst: int = option(
        "Requests that a tenant may make at once.",
        default=400,
        minimum=1,
        group="access",
        unit="requests",
    )
    audit_file: str = option(
        "File that who did what is appended to as JSON lines; empty keeps none.",
        default="",
        group="access",
    )

    @property
    def has_credentials(self) -> bool:
        """Whether callers must show one."""
        return bool(self.api_keys_file or self.jwks_file)

    def check_access(self, **hosts: str) -> None:
        """Check the options together; `hosts` are the addresses listened on, by option.

        Raises:
            OptionError: a listener beyond loopback without credentials, something is missing, or
                a file cannot be used.
        """
        for name, host in hosts.items():
            if not is_loopback(host) and not self.has_credentials:
                flag = "--" + name.replace("_", "-")
                raise OptionError(
                    flag, host, "a loopback address, or credentials (--api-keys-file, --jwks-file)"
                )
        if self.jwks_file and not (self.jwt_issuer and self.jwt_audience):
            raise OptionError("--jwks-file", self.jwks_file, "--jwt-issuer and --jwt-audience too")
        if self.has_credentials and not self.tenant_salt_file:
            raise OptionError("--tenant-salt-file", "", "a file, as soon as there are credentials")
        self.authenticator(now_unix_s=lambda: 0.0)
        self.salts()

    def authenticator(
        self, *, now_unix_s: Callable[[], float], on_reload: Reloaded = nobody_told
    ) -> Authenticator:
        """What verifies credentials; files that change are read again, which `on_reload` is told.

        Raises:
            OptionError: a file cannot be used, or the package that it needs is missing.
        """
        keys = tokens = None
        keys_of = partial(self._keys, on_reload=on_reload)
        tokens_of = partial(self._tokens, on_reload=on_reload)
        if self.api_keys_file:
            keys = _usable("--api-keys-file", self.api_keys_file, keys_of).current
        if self.jwks_file:
            try:
                tokens = _usable("--jwks-file", self.jwks_file, tokens_of).current
            except ModuleNotFoundError as error:
                raise OptionError(
                    "--jwks-file", self.jwks_file, f"the extra shepherd-worker[jwt] ({error})"
                ) from error
        return Authenticator(keys=keys, tokens=tokens, now_unix_s=now_unix_s)

    def salts(self) -> TenantSalts | None:
        """What makes tenants' cache salts; None where there is only the tenant `local`.

        Raises:
            OptionError: the file cannot be used.
        """
        path = self.tenant_salt_file
        return _usable("--tenant-salt-file", path, TenantSalts.load) if path else None

    def audit(self) -> Audit:
        """Where it is written who did what; an `AuditLog` is the caller's to close.

        Raises:
            OSError: the file cannot be written.
        """
        return AuditLog(_path(self.audit_file)) if self.audit_file else NoAudit()

    def _keys(self, path: str, *, on_reload: Reloaded) -> WatchedFile[KeyRing]:
        return WatchedFile(_path(path), read_ring, on_reload)

    def _tokens(self, path: str, *, on_reload: Reloaded) -> WatchedFile[TokenVerifier]:
        from shepherd_auth.tokens import TokenPolicy, read_verifier  # noqa: PLC0415 - an extra

        policy = TokenPolicy(self.jwt_issuer, self.jwt_audience, self.jwt_tenant_claim)
        return WatchedFile(_path(path), partial(read_verifier, policy=policy), on_reload)


def _usable(flag: str, path: str, load: Callable[[str], T]) -> T:
    try:
        return load(path)
    except CredentialFileError as error:
        raise OptionError(flag, path, f"a usable file: it {error.problem}") from error


def _path(path: str) -> Path:
    return Path(path).expanduser()
