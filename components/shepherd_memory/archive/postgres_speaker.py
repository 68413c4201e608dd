"""For whose rows a transaction is.

A server that was started anew, or another that took its place, may lack what was
committed last: a standby that lagged, a copy that was restored.  It is known by
the time at which it was started, and what one has given a number for, another
may give that number for something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

REPLACED = "the server was started anew or replaced: everything is read again"


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody whose rows a transaction shows and takes."""

    number: int
    """The tenant's in `tenants`."""
    server: datetime | None
    """Where that was read; None for a number that is the same everywhere."""


STREAMS = Speaker(0, None)
"""Instead of a tenant: what is known of the streams."""
