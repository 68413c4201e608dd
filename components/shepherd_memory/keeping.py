"""How much of each tenant's archive is kept, as the operator says it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shepherd_memory.archive.records import Quota

DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much of each tenant's archive is kept; None is without limit."""

    max_bytes: int | None = None
    max_turns: int | None = None
    max_days: int | None = None

    def quota(self, now_unix_ns: int) -> Quota | None:
        """The quota as of now; None where nothing is limited."""
        if self == Keeping():
            return None
        quota = Quota(self.max_bytes, self.max_turns)
        if self.max_days is None:
            return quota
        return replace(quota, archived_since_unix_ns=now_unix_ns - self.max_days * DAY_NS)
