"""How often a tenant may ask: a token bucket each, without any clock.

level    rises by `rate_per_s`, up to `burst`; a request takes 1
empty    the request is refused, with the seconds until there is 1 again
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_TENANTS = 10_000
"""Buckets kept; the one unused for longest goes first, and is full again when it comes back."""


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float


class RateLimiter:
    """All tenants' buckets; for one thread."""

    def __init__(self, rate_per_s: float, burst: int, *, max_tenants: int = MAX_TENANTS) -> None:
        """A rate of 0 limits nothing."""
        self._rate_per_s = rate_per_s
        self._burst = max(1, burst)
        self._max_tenants = max_tenants
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, tenant: str, now_s: float) -> float:
        """Ask for one request: 0 when it may go on, else the seconds to wait; monotonic clock."""
        if not self._rate_per_s:
            return 0.0
        bucket = self._buckets.setdefault(tenant, _Bucket(float(self._burst), now_s))
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > self._max_tenants:
            self._buckets.popitem(last=False)
        gained = max(0.0, now_s - bucket.at_s) * self._rate_per_s
        bucket.level = min(float(self._burst), bucket.level + gained)
        bucket.at_s = now_s
        if bucket.level >= 1:
            bucket.level -= 1
            return 0.0
        return (1 - bucket.level) / self._rate_per_s

    def __repr__(self) -> str:
        return f"<RateLimiter {self._rate_per_s:g}/s, {len(self._buckets)} tenants>"
