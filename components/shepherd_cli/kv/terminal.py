"""How a command ends, and where it speaks.

0   done; Ctrl-C, SIGTERM and a reader that closes the pipe are ordinary ends
1   the answer is no: what was compared differs
2   wrong usage
3   a file that cannot be used
4   nobody there, or not with these credentials
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import typer

from shepherd_events.cursor_store import CursorFileError
from shepherd_events.errors import CredentialsError, KvEventsError
from shepherd_events.recording import RecordingError

DIFFERENT = 1
USAGE = 2
UNUSABLE_FILE = 3
UNREACHABLE = 4


class CommandError(Exception):
    """Why a command cannot do what it was asked for."""

    def __init__(self, exit_code: int, message: str) -> None:
        self.exit_code = exit_code
        super().__init__(message)


def say(text: str) -> None:
    """Talk to the person at the terminal."""
    typer.echo(text, err=True)


async def write(text: str) -> None:
    """Put data on stdout; waits for a slow reader, and the event loop goes on meanwhile.

    Raises:
        BrokenPipeError: nobody reads any more.
        CommandError: nobody ever will.
    """
    await asyncio.to_thread(_write, text)


def _write(text: str) -> None:
    if sys.stdout is None:
        raise CommandError(UNUSABLE_FILE, "the standard output is closed")
    sys.stdout.write(text)
    sys.stdout.flush()


def run(work: Coroutine[Any, Any, int | None], command: str = "shepherd kv") -> None:
    """Run a command to its end and leave with its exit code; `command` is who complains.

    Raises:
        typer.Exit: always.
    """
    try:
        raise typer.Exit(asyncio.run(_interruptible(work)) or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at exit
        raise typer.Exit(0) from None
    except (CommandError, KvEventsError, OSError) as error:
        say(f"{command}: {_problem(error)}")
        raise typer.Exit(_exit_code(error)) from None


async def _interruptible(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Cancel the work on SIGINT and SIGTERM, which are then its ordinary end."""
    task = asyncio.ensure_future(work)
    interrupted = asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted.is_set():
            return None
        raise


def _problem(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _exit_code(error: Exception) -> int:
    match error:
        case CommandError(exit_code=code):
            return code
        case ConnectionError():
            return UNREACHABLE
        case RecordingError() | CursorFileError() | CredentialsError() | OSError():
            return UNUSABLE_FILE
        case _:
            return UNREACHABLE
