"""How a stream is read: `subscribe` opens a `Subscription`, for one consumer.

What a subscription does about losses, restarts and silence is written in
`subscription.py`; the names that a consumer needs are all here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from shepherd_events.events import StreamAddress
from shepherd_events.stream_cursor import Position
from shepherd_events.subscription import Subscription
from shepherd_events.subscription_types import (
    Item,
    Patience,
    Reset,
    ResetReason,
    Residents,
    StreamState,
    SubscriptionCounters,
)
from shepherd_events.transports import connect as connect_by_address
from shepherd_events.transports.protocol import Connect

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

__all__ = [
    "Item",
    "Patience",
    "Position",
    "Reset",
    "ResetReason",
    "StreamState",
    "Subscription",
    "SubscriptionCounters",
    "subscribe",
]

_DEFAULT_PATIENCE = Patience()


@asynccontextmanager
async def subscribe(
    address: StreamAddress,
    *,
    after: Position | None = None,
    from_head: bool = False,
    residents: Residents | None = None,
    keys: TenantKeys | None = None,
    patience: Patience = _DEFAULT_PATIENCE,
    connect: Connect = connect_by_address,
    clock: Callable[[], float] = time.monotonic,
    random: Random | None = None,
) -> AsyncIterator[Subscription]:
    """Read a stream, for one consumer.

    Without `after` it begins at the first frame, or with a `Reset` where that is
    not kept any more; with it, after that position; with `from_head`, after the
    last frame that exists when the publisher first answers.  The publisher need
    not be reachable.  `random` spreads retries.

    `residents` is made to hold what was handed out, and is compared with every
    heartbeat that tells of the same position: where they differ, the reader is
    STALE and goes on from a snapshot.  `keys` open tokens that were sealed for their
    tenants; what they do not open is handed out without tokens.

    Raises:
        TransportError: the address names nothing that can be connected to.
    """
    transport = connect(address)
    try:
        yield Subscription(
            address,
            transport,
            after or Position(address.epoch, 0),
            from_head=from_head,
            residents=residents,
            keys=keys,
            patience=patience,
            clock=clock,
            random=random or Random(),  # noqa: S311 - spreads retries, keeps no secret
        )
    finally:
        await transport.close()
