"""One request's logits processors, in a thread of the request's own.

They are made, called and dropped there, one call after the other.  A processor
that raises or never returns harms nothing but its own request: the engine waits
for the whole batch's processors together, for a bounded time, and a call that comes
back later has changed a copy of the logits that nobody reads.

    event loop         thread                      engine's thread
    ----------         ------                      ---------------
    open() --------->  make the processors
                       apply them  <-------------  begin(input_ids, logits)
                       a future's result ------->  wait for it, with a deadline
    close() -------->  end
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from shepherd_worker.errors import InvalidRequestError, ProcessorError
from shepherd_worker.logits_processing.protocol import LogitsProcessor

if TYPE_CHECKING:
    from torch import Tensor


class ProcessorThread:
    """See the module's docstring; needs `close`, without which the thread waits for ever."""

    def __init__(
        self, makers: Sequence[Callable[[], LogitsProcessor]], *, timeout_s: float, name: str
    ) -> None:
        self.timeout_s = timeout_s
        self._makers = makers
        self._closed = False
        self._lock = threading.Lock()
        """Keeps a call from coming after the last one."""
        self._made: Future[None] = Future()
        self._jobs: queue.SimpleQueue[tuple[Sequence[int], Tensor, Future[Tensor]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"shepherd-processors-{name}", daemon=True
        )

    async def open(self) -> None:
        """Make the processors.

        Raises:
            InvalidRequestError: an argument is not to a processor's liking.
            ProcessorError: one could not be made, or not in time.
        """
        self._thread.start()
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.wrap_future(self._made)
        except TimeoutError:
            raise ProcessorError(f"it was not made within {self.timeout_s:g} s") from None
        except (ValueError, TypeError) as error:
            raise InvalidRequestError(
                "logits_processor", str(error), "fitting arguments"
            ) from error
        except Exception as error:
            raise ProcessorError(f"it could not be made: {error!r}") from error

    def begin(self, input_ids: Sequence[int], logits: Tensor) -> Future[Tensor]:
        """Let the processors change `logits` [vocab_size], which is theirs from now on.

        Once closed they change nothing: the request is over, and nobody reads its tokens.
        """
        result: Future[Tensor] = Future()
        with self._lock:
            if self._closed:
                result.set_result(logits)
            else:
                self._jobs.put((input_ids, logits, result))
        return result

    def close(self) -> None:
        """Let the thread end, after the call that is running; does not wait for it."""
        with self._lock:
            self._closed = True
            self._jobs.put(None)

    def _run(self) -> None:
        import torch  # noqa: PLC0415 - heavy, and not needed by engines without processors

        if not self._made.set_running_or_notify_cancel():
            return
        with torch.inference_mode():
            processors: list[LogitsProcessor] = []
            try:
                processors += [make() for make in self._makers]
            except BaseException as error:  # noqa: BLE001 - the thread's edge; `open` raises it
                self._made.set_exception(error)
                return
            self._made.set_result(None)
            while (job := self._jobs.get()) is not None:
                _apply(processors, *job)


def _apply(
    processors: Sequence[LogitsProcessor],
    input_ids: Sequence[int],
    logits: Tensor,
    result: Future[Tensor],
) -> None:
    try:
        for process in processors:
            process(input_ids, logits)
    except BaseException as error:  # noqa: BLE001 - the thread's edge; who waits for it is told
        result.set_exception(error)
    else:
        result.set_result(logits)
