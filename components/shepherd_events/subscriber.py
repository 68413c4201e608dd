"""How a stream is read: `subscribe` opens a `Subscription`, for one consumer.

    async with subscribe("tcp://127.0.0.1:5557") as stream:
        async for item in stream: ...

What a subscription does about losses, restarts and silence is written in
`subscription.py`; the names that a consumer needs are all here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from shepherd_events.event_filter import EventFilter, StreamFilter
from shepherd_events.events import StreamAddress
from shepherd_events.stream_cursor import Position
from shepherd_events.stream_url import StreamUrl, resolve
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
from shepherd_events.transports import NO_CREDENTIALS
from shepherd_events.transports import connect as connect_by_address
from shepherd_events.transports.credentials import ReaderCredentials
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
    source: StreamAddress | str,
    *,
    after: Position | None = None,
    from_head: bool = False,
    residents: Residents | None = None,
    wanted: EventFilter | None = None,
    keys: TenantKeys | None = None,
    credentials: ReaderCredentials = NO_CREDENTIALS,
    patience: Patience = _DEFAULT_PATIENCE,
    connect: Connect | None = None,
    clock: Callable[[], float] = time.monotonic,
    random: Random | None = None,
) -> AsyncIterator[Subscription]:
    """Read a stream, for one consumer.

    `source` is an address, as discovery gives it, whose publisher need not be reachable,
    or a URL (`stream_url.py`), which somebody must answer for within `patience.silence_s`.  `credentials` are
    shown to whoever is there, unless `connect` knows another way.

    Without `after` it begins at the first frame, or with a `Reset` where that is
    not kept any more; with it, after that position; with `from_head`, after the
    last frame that exists when the publisher first answers.  `random` spreads retries.

    `residents` is made to hold what was handed out, and is compared with every
    heartbeat that tells of the same position: where they differ, the reader is
    STALE and goes on from a snapshot.  `wanted` leaves out what does not match; the
    position moves past it, and `residents` hold it all the same.  `keys` open tokens that
    were sealed for their tenants; what they do not open is handed out without tokens.

    Raises:
        TransportError: the address names nothing that can be connected to; nobody answers
            for a URL.
        ValueError: `source` is a text that is no URL of a stream.
    """
    if isinstance(source, str):
        url = StreamUrl.parse(source)
        address = await resolve(url, timeout_s=patience.silence_s, credentials=credentials)
    else:
        address = source
    connect = connect or partial(connect_by_address, credentials=credentials)
    transport = connect(address)
    try:
        yield Subscription(
            address,
            transport,
            after or Position(address.epoch, 0),
            from_head=from_head,
            residents=residents,
            wanted=StreamFilter(wanted) if wanted else None,
            keys=keys,
            patience=patience,
            clock=clock,
            random=random or Random(),  # noqa: S311 - spreads retries, keeps no secret
        )
    finally:
        await transport.close()
