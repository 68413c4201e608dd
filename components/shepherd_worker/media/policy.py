"""What may be fetched, and from where; no I/O.

Which addresses may be reached at all is `shepherd_config.outbound`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from yarl import URL

from shepherd_config.outbound import looks_numeric, may_be_reached
from shepherd_worker.errors import InvalidRequestError

FIELD = "image_url"
"""What every refusal calls the client's mistake."""
SCHEMES = ("data", "https", "http")
"""What can be served at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPolicy:
    """The operator's limits."""

    schemes: frozenset[str] = frozenset({"data", "https"})
    allowed_hosts: frozenset[str] = frozenset()
    """Names, addresses or networks that may be fetched from though they are not public."""
    max_bytes: int = 20 << 20
    """Of one picture as it travels."""
    max_pixels: int = 32 << 20
    """Of one picture once it is decoded."""
    max_images: int = 16
    """In one request."""
    timeout_s: float = 10.0
    """For one picture, redirects and all."""
    max_redirects: int = 3

    def check_scheme(self, scheme: str, url: str) -> None:
        """Refuse schemes that are not served.

        Raises:
            InvalidRequestError: the scheme is not one of `schemes`.
        """
        if scheme not in self.schemes:
            raise InvalidRequestError(FIELD, shown(url), f"a URL of {_listed(self.schemes)}")

    def check_url(self, url: URL) -> None:
        """Refuse what can be refused without asking DNS.

        Raises:
            InvalidRequestError: scheme, credentials, or an address that is not public.
        """
        self.check_scheme(url.scheme, str(url))
        if url.user is not None or url.password is not None:
            raise InvalidRequestError(FIELD, url.host, "a URL without credentials")
        if not url.host:
            raise InvalidRequestError(FIELD, shown(str(url)), "a URL with a host")
        if looks_numeric(url.host):
            self.check_addresses(url.host, [url.host])

    def check_addresses(self, host: str, addresses: Iterable[str]) -> None:
        """Refuse a host if one of the addresses that it resolves to is not allowed.

        Raises:
            InvalidRequestError: an address is private, local, reserved or a group's.
        """
        if not may_be_reached(host, addresses, self.allowed_hosts):
            raise InvalidRequestError(
                FIELD, host, "a host on the public internet, or one of --media-allow-hosts"
            )


def shown(url: str) -> str:
    """A URL as an error may repeat it: no query, no data, not long."""
    head, _, _ = url.partition(",") if url.startswith("data:") else url.partition("?")
    return head if len(head) <= 80 else head[:77] + "..."


def _listed(schemes: Iterable[str]) -> str:
    return ", ".join(f"{scheme}:" for scheme in sorted(schemes))
