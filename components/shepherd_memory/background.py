"""Background work that a failure must not end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shepherd_memory.errors import StoreUnavailableError
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell

log = logging.getLogger(__name__)

PAUSE_S = 5.0


async def whenever_it_rings(
    work: Callable[[], Awaitable[None]],
    *,
    name: str,
    bell: Bell,
    metrics: Metrics,
    pause_s: float = PAUSE_S,
) -> None:
    """Do the work now and after every ring, until cancelled or the bell is closed.

    `work` picks up where it stopped: when it fails, it is begun again after a pause.
    """
    while not bell.closed:
        ticket = bell.ticket()
        try:
            await work()
        except StoreUnavailableError as error:
            log.warning("%s waits for the store: %s", name, error.reason)
        except Exception:
            log.exception("%s failed and will go on where it stopped", name)
        else:
            await ticket.wait()
            continue
        metrics.background_failures.labels(name).inc()
        await asyncio.sleep(pause_s)
