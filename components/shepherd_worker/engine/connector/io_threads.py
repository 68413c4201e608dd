"""A few threads that wait for slow calls, so that nobody else does.

They are daemons: a call that never returns keeps neither `stop` nor the process
from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class IoThreads:
    """See the module's docstring."""

    def __init__(self, name: str, num_threads: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(num_threads)
        ]

    def __len__(self) -> int:
        return len(self._threads)

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Make `call` in a thread, after those that were submitted before it."""
        future: Future[T] = Future()
        self._jobs.put((future, call))
        return future

    def stop(self, timeout_s: float) -> bool:
        """End the threads after what was submitted; False when one still runs after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        started = [thread for thread in self._threads if thread.ident is not None]
        for _ in started:
            self._jobs.put(None)
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in started)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - the thread's edge; the waiter raises it
                future.set_exception(error)
