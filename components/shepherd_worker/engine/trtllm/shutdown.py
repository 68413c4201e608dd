"""The end of TensorRT-LLM, which cannot keep the process from ending.

Its shutdown waits for its ranks, and after a failure some of them may never
answer.  It gets its time; then the process goes on without it, and if
something of TensorRT-LLM still keeps the process, the process is ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shepherd_worker.engine.trtllm.blocking import in_daemon
from shepherd_worker.errors import EngineFailedError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """How long the end may take."""

    timeout_s: float = 20.0
    """For TensorRT-LLM to shut down."""
    exit_grace_s: float = 10.0
    """For the process to end after that, before it is ended."""
    exit_process: Callable[[int], None] = os._exit

    async def end(self, loading: asyncio.Future[Any]) -> None:
        """Let what `loading` loads free everything; a load that is under way is left alone."""
        if not loading.done():
            loading.add_done_callback(_end_when_loaded)
            return
        if loading.cancelled() or loading.exception() is not None:
            return
        ending = in_daemon(loading.result().shutdown, "trtllm-shutdown")
        done, _ = await asyncio.wait((ending,), timeout=self.timeout_s)
        if not done:
            log.critical("TensorRT-LLM did not shut down in %.0f s", self.timeout_s)
            code = EngineFailedError.exit_code
            timer = threading.Timer(self.exit_grace_s, self.exit_process, (code,))
            timer.daemon = True
            timer.start()
        elif (error := ending.exception()) is not None:
            log.error("TensorRT-LLM's shutdown failed", exc_info=error)


def _end_when_loaded(loading: asyncio.Future[Any]) -> None:
    """A model that nobody wants any more was loaded after all."""
    if not loading.cancelled() and loading.exception() is None:
        threading.Thread(target=loading.result().shutdown, daemon=True).start()
