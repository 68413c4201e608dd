"""The one thread in which an engine computes.

Commands go in through a queue; what a step brings forth goes out as one call of
`deliver`, on the event loop.  The thread sleeps while there is nothing to do.

    event loop                         engine thread
    ----------                         -------------
    post(command) ---- queue ------->  commands, in order
                                       core.step()
    deliver(output) <- call_soon ----  once per step
    died(error)     <- call_soon ----  at most once, the last
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from shepherd_worker.engine.embedded.core import EngineCore, StepOutput
from shepherd_worker.engine.embedded.loading import Loaded
from shepherd_worker.engine.protocol import EngineStats

log = logging.getLogger(__name__)

Command = Callable[[EngineCore], None]


class EngineThread:
    """Owns the core once it is started; `start`, `post` and `stop` belong to the event loop."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        ready: Callable[[Loaded], None],
        deliver: Callable[[StepOutput], None],
        died: Callable[[BaseException], None],
    ) -> None:
        """`load` runs in the thread; the other three are called on the event loop."""
        self._load = load
        self._ready = ready
        self._deliver = deliver
        self._died = died
        self._wakeup = threading.Condition()
        self._commands: list[Command] = []
        self._stopping = False
        self._stats = EngineStats()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="shepherd-engine", daemon=True)

    def start(self) -> None:
        """Load the model and serve; `ready` or `died` follows."""
        self._thread.start()

    def post(self, command: Command) -> None:
        """Run `command` in the thread before its next step."""
        with self._wakeup:
            self._commands.append(command)
            self._wakeup.notify()

    def stop(self) -> None:
        """Let the thread end after its current step, with every sequence cancelled."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()

    async def join(self) -> None:
        """Wait until the thread has ended; it must have been stopped."""
        await asyncio.to_thread(self._thread.join)

    @property
    def stats(self) -> EngineStats:
        """As of the last step."""
        return self._stats

    def _run(self) -> None:
        try:
            loaded = self._load()
            self._stats = loaded.core.stats()
            self._call(self._ready, loaded)
            self._serve(loaded.core)
        except BaseException as error:  # noqa: BLE001 - the thread's edge; the owner raises it again
            self._call(self._died, error)

    def _serve(self, core: EngineCore) -> None:
        may_step = False
        while not self._stopping:
            for command in self._take_commands(wait=not may_step):
                command(core)
            may_step = self._step(core)
        core.cancel_all()
        self._step(core)

    def _take_commands(self, *, wait: bool) -> list[Command]:
        with self._wakeup:
            while wait and not self._commands and not self._stopping:
                self._wakeup.wait()
            commands, self._commands = self._commands, []
        return commands

    def _step(self, core: EngineCore) -> bool:
        output, busy = core.step()
        self._stats = core.stats()
        if output:
            self._call(self._deliver, output)
        return busy

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.warning("the event loop is closed: the engine stops unheard")
            self._stopping = True
