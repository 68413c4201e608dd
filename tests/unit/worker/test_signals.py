"""SIGTERM once, SIGTERM twice."""

from __future__ import annotations

import asyncio
import os
import signal

from shepherd_worker.signals import StopSignals


async def test_the_first_signal_cancels_what_runs_before_it() -> None:
    cancelled = asyncio.Event()

    async def load_for_ever() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "loaded"

    with StopSignals(asyncio.get_running_loop()) as stop:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)

        assert await stop.unless_stopped(load_for_ever()) is None
        assert cancelled.is_set()
        await stop.first()


async def test_work_that_needs_two_signals_survives_the_first() -> None:
    with StopSignals(asyncio.get_running_loop()) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.first()

        assert await stop.unless_stopped(asyncio.sleep(0, "done"), after=2) == "done"

        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        assert await stop.unless_stopped(asyncio.Event().wait(), after=2) is None


async def test_handlers_are_gone_afterwards() -> None:
    with StopSignals(asyncio.get_running_loop()):
        pass

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
