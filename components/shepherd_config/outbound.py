"""Connections to addresses that somebody else has named.

A URL comes from outside and is fetched from inside the network: it must not
reach what only the inside can.  So an address is allowed when everybody on the
internet could reach it, or when the operator named its host.  Addresses that
carry an IPv4 address within an IPv6 one are judged by both.  Names are resolved
once per connection, and what was checked is what is connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from aiohttp.abc import AbstractResolver, ResolveResult

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")

CheckAddresses = Callable[[str, Iterable[str]], None]
"""Given a host and the addresses that it resolves to, raises where one is not allowed."""


def may_be_reached(host: str, addresses: Iterable[str], allowed_hosts: frozenset[str]) -> bool:
    """Whether every address is public, or the operator named the host, address or network."""
    if host.lower().rstrip(".") in allowed_hosts:
        return True
    return all(_is_allowed(_parsed(text), allowed_hosts) for text in addresses)


def is_public(address: _Address) -> bool:
    """Whether everybody on the internet could reach an address."""
    return all(map(_is_global, _meanings(address)))


def looks_numeric(host: str) -> bool:
    """Whether the HTTP client may take a host for an address and ask no resolver: 127.1 among them."""
    return ":" in host or host.replace(".", "").isdigit()


class Resolver(Protocol):
    """DNS, or what a test puts in its place."""

    async def resolve(self, host: str) -> list[str]:
        """The addresses of a host.

        Raises:
            OSError: there are none, or nobody answers.
        """
        ...


class SystemResolver:
    """The operating system's resolver, in a thread."""

    async def resolve(self, host: str) -> list[str]:
        """See `Resolver.resolve`."""
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]


class CheckedResolver(AbstractResolver):
    """What the HTTP client connects to: exactly the addresses that were checked.

    The client asks here once for each connection, so a name that changes its
    address between check and use (DNS rebinding) changes nothing.
    """

    def __init__(self, resolver: Resolver, check: CheckAddresses) -> None:
        self._resolver = resolver
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Called by aiohttp; whatever the check raises comes through.

        Raises:
            OSError: the host has no address.
        """
        addresses = await self._resolver.resolve(host)
        self._check(host, addresses)
        return [_result(host, address, port) for address in addresses if _fits(address, family)]

    async def close(self) -> None:
        """Called by aiohttp; nothing is held."""


def _is_allowed(address: _Address | None, allowed_hosts: frozenset[str]) -> bool:
    if address is None:
        return False
    named = any(address in network for network in _networks(allowed_hosts))
    return named or is_public(address)


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


def _fits(address: str, family: socket.AddressFamily) -> bool:
    return family in {socket.AF_UNSPEC, _family(address)}


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=_family(address),
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )
