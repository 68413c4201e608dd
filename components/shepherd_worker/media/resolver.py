"""Host names to addresses, asked once per connection and checked before it is made."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from aiohttp.abc import AbstractResolver, ResolveResult

from shepherd_worker.media.policy import MediaPolicy


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

    def __init__(self, resolver: Resolver, policy: MediaPolicy) -> None:
        self._resolver = resolver
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Called by aiohttp.

        Raises:
            InvalidRequestError: an address is not allowed.
            OSError: the host has no address.
        """
        addresses = await self._resolver.resolve(host)
        self._policy.check_addresses(host, addresses)
        return [_result(host, address, port) for address in addresses if _fits(address, family)]

    async def close(self) -> None:
        """Called by aiohttp; nothing is held."""


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
