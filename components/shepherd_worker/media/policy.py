"""What may be fetched, and from where; no I/O.

A URL comes from a client and is fetched from inside the network: it must not
reach what only the inside can.  So an address is allowed when everybody on the
internet could reach it, or when the operator named its host.  Addresses that
carry an IPv4 address within an IPv6 one are judged by both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from yarl import URL

from shepherd_worker.errors import InvalidRequestError

FIELD = "image_url"
"""What every refusal calls the client's mistake."""
SCHEMES = ("data", "https", "http")
"""What can be served at all."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")


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
        if _looks_numeric(url.host):
            self.check_addresses(url.host, [url.host])

    def check_addresses(self, host: str, addresses: Iterable[str]) -> None:
        """Refuse a host if one of the addresses that it resolves to is not allowed.

        Raises:
            InvalidRequestError: an address is private, local, reserved or a group's.
        """
        if host.lower().rstrip(".") in self.allowed_hosts:
            return
        for text in addresses:
            address = _parsed(text)
            if address is None or not (self._is_named(address) or is_public(address)):
                raise InvalidRequestError(
                    FIELD, host, "a host on the public internet, or one of --allow-media-host"
                )

    def _is_named(self, address: _Address) -> bool:
        return any(address in network for network in _networks(self.allowed_hosts))


def is_public(address: _Address) -> bool:
    """Whether everybody on the internet could reach an address."""
    return all(map(_is_global, _meanings(address)))


def shown(url: str) -> str:
    """A URL as an error may repeat it: no query, no data, not long."""
    head, _, _ = url.partition(",") if url.startswith("data:") else url.partition("?")
    return head if len(head) <= 80 else head[:77] + "..."


def _is_global(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meanings(address: _Address) -> Iterator[_Address]:
    """The address, or the IPv4 addresses that it leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in (*_NAT64, _COMPATIBLE)):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    found = [each for each in inner if each is not None]
    yield from found
    if address.ipv4_mapped is None:
        yield address


def _looks_numeric(host: str) -> bool:
    """Whether the HTTP client may take a host for an address and ask no resolver: 127.1 among them."""
    return ":" in host or host.replace(".", "").isdigit()


def _parsed(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _networks(hosts: Iterable[str]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for host in hosts:
        try:
            yield ipaddress.ip_network(host, strict=False)
        except ValueError:
            continue


def _listed(schemes: Iterable[str]) -> str:
    return ", ".join(f"{scheme}:" for scheme in sorted(schemes))
