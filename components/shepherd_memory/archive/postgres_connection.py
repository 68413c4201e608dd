"""A connection that does not wait for ever for a server that says nothing.

The server's own time limits hold as long as it runs: one that is frozen, or a
network that swallows everything, answers nothing, and the kernel may still
acknowledge what it is sent.  Whoever waits for such a server gives up after
`silence_s` without a byte, and the connection is closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.rows import DictRow
from psycopg.waiting import Ready

from shepherd_memory.archive.postgres_speaker import Speaker


class SilentServerError(psycopg.OperationalError):
    """The server has said nothing for too long; the connection is closed."""


class PatientConnection(psycopg.Connection[DictRow]):
    """As psycopg's, with an end to its patience; one thread at a time."""

    silence_s = 60.0
    """Seconds without a byte from the server after which a wait is given up."""
    spoken: list[tuple[Speaker | None, psycopg.Cursor[DictRow]]]
    """For whom the transaction has spoken, and what the server said to that."""

    @classmethod
    def connect(cls, conninfo: str = "", **arguments: Any) -> Self:
        """Connect; `on_failure`, among the arguments, is told why that failed."""
        on_failure: Callable[[str], None] = arguments.pop("on_failure")
        try:
            return super().connect(conninfo, **arguments)
        except psycopg.Error as error:
            on_failure(first_line_of(error))
            raise

    def wait(self, gen: PQGen[RV], *others: Any, **more: Any) -> RV:
        """Run a conversation with the server.

        Raises:
            SilentServerError: it has said nothing for too long.
        """
        return super().wait(self._heard(gen), *others, **more)

    def _heard(self, gen: PQGen[RV]) -> PQGen[RV]:
        """The same conversation; psycopg says ten times a second that nothing came."""
        until = time.monotonic() + self.silence_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready != Ready.NONE:
                    until = time.monotonic() + self.silence_s
                elif time.monotonic() >= until:
                    self.pgconn.finish()
                    raise SilentServerError(f"no answer for {self.silence_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as ended:
            value: RV = ended.value
            return value


def first_line_of(error: psycopg.Error) -> str:
    """What a server or the driver says, without details, which may show rows."""
    lines = (error.diag.message_primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
