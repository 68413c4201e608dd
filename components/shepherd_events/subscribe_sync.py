"""A subscription for programs without asyncio: an ordinary iterator.

    with subscribe_sync("tcp://127.0.0.1:5557") as stream:
        for item in stream: ...

The subscription lives in an event loop in a thread of its own, which works only
while an item is waited for: as many as are ready are fetched at once, and what
is not fetched waits where it would for any other reader.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from shepherd_events.event_filter import EventFilter
from shepherd_events.events import StreamAddress
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import Subscription, subscribe
from shepherd_events.subscription_types import Item, Patience, StreamState, SubscriptionCounters
from shepherd_events.transports import NO_CREDENTIALS
from shepherd_events.transports.credentials import ReaderCredentials
from shepherd_events.transports.protocol import Connect

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

T = TypeVar("T")

_MAX_FETCHED = 64
_DEFAULT_PATIENCE = Patience()


@contextmanager
def subscribe_sync(
    source: StreamAddress | str,
    *,
    after: Position | None = None,
    from_head: bool = False,
    residents: ResidentSet | None = None,
    wanted: EventFilter | None = None,
    keys: TenantKeys | None = None,
    credentials: ReaderCredentials = NO_CREDENTIALS,
    patience: Patience = _DEFAULT_PATIENCE,
    connect: Connect | None = None,
) -> Iterator[SyncSubscription]:
    """Read a stream as `subscribe` does, without asyncio.

    `residents` are at the item that was handed out last until the next one is asked for.

    Raises:
        TransportError, ValueError: as `subscribe`.
    """
    opening = subscribe(
        source,
        after=after,
        from_head=from_head,
        residents=residents,
        wanted=wanted,
        keys=keys,
        credentials=credentials,
        patience=patience,
        connect=connect,
    )
    stream = SyncSubscription(opening, max_fetched=_MAX_FETCHED if residents is None else 1)
    try:
        yield stream
    finally:
        stream.close()


class SyncSubscription:
    """An iterator of items that ends when it is closed; one thread iterates, any may close."""

    def __init__(
        self, opening: AbstractAsyncContextManager[Subscription], *, max_fetched: int
    ) -> None:
        self._opening = opening
        self._max_fetched = max_fetched
        self._fetched: deque[tuple[Item, Position]] = deque()
        self._fetching: Future[list[tuple[Item, Position]]] | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="kv-events-reader", daemon=True
        )
        self._thread.start()
        try:
            self._subscription = self._call(opening.__aenter__())
            self._position = self._subscription.position
        except BaseException:
            self._stop()
            raise

    @property
    def position(self) -> Position:
        """Of the last item handed out: where another subscription would go on."""
        return self._position

    @property
    def state(self) -> StreamState:
        """As `Subscription.state`; items that wait here to be handed out do not count."""
        return self._subscription.state

    @property
    def counters(self) -> SubscriptionCounters:
        """Totals since the subscription began."""
        return self._subscription.counters

    def __iter__(self) -> SyncSubscription:
        return self

    def __next__(self) -> Item:
        return self.next()

    def next(self, timeout_s: float | None = None) -> Item:
        """The next item, as long as it takes or `timeout_s` allows.

        Raises:
            TimeoutError: nothing was handed out in time; ask again.
            StopIteration: it is closed.
        """
        if not self._fetched:
            self._fetched.extend(self._fetch(timeout_s))
        item, self._position = self._fetched.popleft()
        return item

    def close(self) -> None:
        """Stop reading and free the connection; who waits for an item is told the end."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            if self._fetching is not None:
                self._fetching.cancel()
            self._call(self._opening.__aexit__(None, None, None))
            self._stop()

    def _fetch(self, timeout_s: float | None) -> list[tuple[Item, Position]]:
        with self._closing:
            if self._closed:
                raise StopIteration
            if self._fetching is None:
                self._fetching = asyncio.run_coroutine_threadsafe(self._ready(), self._loop)
            fetching = self._fetching
        try:
            items = fetching.result(timeout_s)
        except CancelledError:
            raise StopIteration from None
        self._fetching = None
        return items

    async def _ready(self) -> list[tuple[Item, Position]]:
        """The next item, and those that need not be waited for."""
        stream = self._subscription
        items = [(await anext(stream), stream.position)]
        while stream.num_ready and len(items) < self._max_fetched:
            items.append((await anext(stream), stream.position))
        return items

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
