"""Whether the gateway can do its work, and what of it."""

from __future__ import annotations

from typing import Any

from shepherd_gateway.errors import UpstreamError
from shepherd_gateway.memory import Memory
from shepherd_gateway.upstream import Upstream

CHECK_S = 2.0
"""How long the frontend may take to say that it is there."""


class Health:
    """What `/health` says."""

    def __init__(self, upstream: Upstream, memory: Memory | None) -> None:
        self._upstream = upstream
        self._memory = memory
        self.is_draining = False

    def drain(self) -> None:
        """Say from now on that nobody should come any more."""
        self.is_draining = True

    async def check(self) -> tuple[bool, dict[str, Any]]:
        """Healthy is who can answer; without its memory a gateway can, and says so."""
        try:
            reply = await self._upstream.get("/v1/models", timeout_s=CHECK_S)
            reaches = reply.status == 200
        except UpstreamError:
            reaches = False
        healthy = reaches and not self.is_draining
        memory = "off"
        if self._memory is not None:
            memory = "ok" if self._memory.is_available else "degraded"
        status = "ok" if healthy else "draining" if self.is_draining else "unavailable"
        upstream = "ok" if reaches else "unreachable"
        return healthy, {"status": status, "upstream": upstream, "memory": memory}
