"""`shepherd chat` in a real pseudo-terminal, against a gateway, a frontend and a memory that do what they are told."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway_house import House, house
from shepherd_gateway.fake import FakeFrontend, FakeMemory, Said

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
PATIENCE_S = 30.0


def says_how_many_questions(body: dict[str, Any]) -> Said:
    asked = [each for each in body["messages"] if each["role"] == "user"]
    return Said(("You asked ", f"{len(asked)} things."))


class Terminal:
    """What a person sees, and types."""

    def __init__(self, master: int, process: Process) -> None:
        self.process = process
        self._master = master
        self._seen = ""
        self._came = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    async def shows(self, text: str) -> str:
        """Wait for a text; what came before it, without colours."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self._seen:
                self._came.clear()
                await self._came.wait()
        before, _, self._seen = self._seen.partition(text)
        return before

    @property
    def unread(self) -> str:
        """What came since."""
        return self._seen

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _read(self) -> None:
        try:
            self._seen += CONTROL.sub("", os.read(self._master, 65536).decode())
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)
        self._came.set()


@asynccontextmanager
async def chatting(at: House, *args: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    command = (sys.executable, "-m", "shepherd_cli", "chat", "--url", at.url, *args)
    env = os.environ | {"TERM": "dumb", "COLUMNS": "120"}
    process = await asyncio.create_subprocess_exec(
        *command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        yield terminal
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


async def test_answers_come_with_the_history_and_commands_are_no_messages() -> None:
    frontend = FakeFrontend(says_how_many_questions)
    async with house(frontend=frontend) as at, chatting(at, "--model", "fake") as terminal:
        await terminal.shows("session me; /help")
        terminal.types("hello\n")
        await terminal.shows("You asked 1 things.")
        terminal.types("/help\n")
        await terminal.shows("/quit")
        terminal.types("/nothing\n")
        await terminal.shows("there is no such command")
        terminal.types("again\n")
        await terminal.shows("You asked 2 things.")
        terminal.types("/quit\n")


async def test_what_cannot_be_asked_is_said_and_the_chat_goes_on() -> None:
    frontend = FakeFrontend(lambda _: Said(status=400, error="too long"))
    async with house(frontend=frontend) as at, chatting(at, "--model", "fake") as terminal:
        await terminal.shows("/help")
        terminal.types("hello\n")
        await terminal.shows("HTTP 400")
        terminal.types("/facts\n")
        await terminal.shows("--memory URL")
        terminal.types("/cache\n")
        await terminal.shows("--worker URL")
        await terminal.shows("> ")  # Ctrl-D ends where a line is being read, and only there
        terminal.types("\x04")


async def test_the_memory_s_turns_of_the_session_are_shown() -> None:
    memory = FakeMemory()
    at_first = memory.hear("me", ("user", "My cat is called Tibbles."), ("assistant", "Noted."))
    memory.hear("me", ("user", "I live in Lisbon."), ("assistant", "Noted."))
    memory.evict("me", at_first)
    async with memory.served() as url, house() as at:
        async with chatting(at, "--model", "fake", "--memory", url) as terminal:
            await terminal.shows("/help")
            terminal.types("/memory\n")
            await terminal.shows("me, turn 1")
            assert "My cat is called Tibbles." in await terminal.shows("Noted.")
            terminal.types("/quit\n")
        assert "Lisbon" not in terminal.unread


async def test_an_answer_that_is_given_up_is_no_part_of_the_history() -> None:
    never = asyncio.Event()
    answers = iter([Said(("Well, ", "no."), pause=never)])

    def slow_at_first(body: dict[str, Any]) -> Said:
        return next(answers, None) or says_how_many_questions(body)

    frontend = FakeFrontend(slow_at_first)
    async with house(frontend=frontend) as at, chatting(at, "--model", "fake") as terminal:
        await terminal.shows("/help")
        terminal.types("hello\n")
        await terminal.shows("Well,")
        terminal.process.send_signal(signal.SIGINT)  # what Ctrl-C sends
        await terminal.shows("> ")
        terminal.types("again\n")
        await terminal.shows("You asked 1 things.")
        terminal.types("/quit\n")
        never.set()
