"""`shepherd chat`: talk to a model in the terminal, and look into its memory meanwhile.

What is typed is a message, or a command where it begins with a slash.  Answers
stream; Ctrl-C gives up the one that is coming, Ctrl-D ends.  Knows nothing of how the
model, the memory and the caches work: it asks each over HTTP, as anybody may.
"""

from __future__ import annotations

import asyncio
import readline
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from rich.console import Console
from rich.text import Text

from shepherd_cli.chat import ChatError, Conversation
from shepherd_memory.client import MemoryClient, MemoryClientError, MemoryUnreachableError
from shepherd_memory.models import TurnModel

MAX_TOKENS = 512
PROMPT = "> "
HELP = """\
/memory [WORDS]  what left the cache in this session; with words, what fits them in all sessions
/facts           the facts that the memory keeps
/cache           how full the workers' caches are
/help            this list
/quit            end; so does Ctrl-D"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything answers."""

    url: str
    """The gateway, or a frontend."""
    model: str
    """Empty takes the first that is offered."""
    session: str
    memory: str
    """Empty has none."""
    workers: tuple[str, ...]
    """Status servers."""


class Talk:
    """One conversation; used as an async context manager."""

    def __init__(self, places: Places, console: Console) -> None:
        self._places = places
        self._console = console
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/memory": self._memory,
            "/facts": self._facts,
            "/cache": self._cache,
            "/help": self._help,
        }

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_read=300))
        self._chat = Conversation(
            self._http,
            self._places.url,
            self._places.model,
            session_id=self._places.session,
            max_tokens=MAX_TOKENS,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def greet(self) -> None:
        """Find the model, and say who is there.

        Raises:
            ChatError: the server offers none.
            aiohttp.ClientError: nobody answers.
        """
        if not self._chat.model:
            async with self._http.get(self._places.url + "/v1/models") as response:
                offered = (await response.json(content_type=None)).get("data") or []
            if not offered:
                raise ChatError(404, f"{self._places.url} offers no model")
            self._chat.model = offered[0]["id"]
        self._say(f"{self._chat.model}, session {self._places.session}; /help", "dim")

    async def take(self, line: str) -> bool:
        """Do what was typed; False when that was to end."""
        line = line.strip()
        if line == "/quit":
            return False
        try:
            if line.startswith("/"):
                name, _, rest = line.partition(" ")
                await self._commands.get(name, self._unknown)(rest.strip())
            elif line:
                await self._answer(line)
        except ChatError as error:
            self._say(str(error), "red")
        except MemoryClientError as error:
            self._say(f"the memory refuses: {error}", "red")
        except (aiohttp.ClientError, MemoryUnreachableError, TimeoutError) as error:
            self._say(f"nobody answers: {error}", "red")
        return True

    async def _answer(self, text: str) -> None:
        async for piece in self._chat.say(text):
            self._console.print(Text(piece), end="", soft_wrap=True)
        self._console.print()
        for recall in self._chat.recalls:
            self._say(f"[{recall}]", "cyan dim")

    async def _memory(self, words: str) -> None:
        if not self._has_memory():
            return
        turns: Sequence[TurnModel]
        async with MemoryClient(self._places.memory) as memory:
            if words:
                turns = (await memory.search(words)).hits
            else:
                turns = await self._archived(memory)
        for turn in turns:
            self._say(f"{turn.session}, turn {turn.ordinal}", "dim")
            for message in turn.messages:
                self._say(f"  {message.role}: {message.content}")
        if not turns:
            self._say("nothing")

    async def _archived(self, memory: MemoryClient) -> list[TurnModel]:
        """Those of this session; none where the memory has not heard of it."""
        try:
            page = await memory.turns(self._places.session)
        except MemoryClientError as error:
            if error.status == 404:
                return []
            raise
        return [turn for turn in page.turns if turn.state == "archived"]

    async def _facts(self, _: str) -> None:
        if not self._has_memory():
            return
        async with MemoryClient(self._places.memory) as memory:
            facts = (await memory.facts()).facts
        for fact in facts:
            self._say(f"{fact.key}: {fact.value}")
        if not facts:
            self._say("none")

    async def _cache(self, _: str) -> None:
        for url in self._places.workers:
            async with self._http.get(url + "/engine/shepherd/health") as response:
                report = await response.json(content_type=None)
            blocks = report["blocks"]
            used = blocks["referenced"] + blocks["cached"]
            self._say(f"{report['role']}: {used} of {used + blocks['empty']} blocks")
        if not self._places.workers:
            self._say("name the workers' status servers with --worker URL", "red")

    async def _help(self, _: str) -> None:
        self._say(HELP)

    async def _unknown(self, _: str) -> None:
        self._say("there is no such command; /help lists them", "red")

    def _has_memory(self) -> bool:
        if not self._places.memory:
            self._say("there is no memory: name it with --memory URL", "red")
        return bool(self._places.memory)

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


def run_chat(places: Places, console: Console) -> int:
    """Talk until the end of input; exit code 4 where nobody answers at first."""
    readline.parse_and_bind("set enable-bracketed-paste off")
    with asyncio.Runner() as runner:
        talk = Talk(places, console)
        runner.run(talk.__aenter__())
        try:
            runner.run(talk.greet())
            _converse(runner, talk, console)
        except (ChatError, aiohttp.ClientError, TimeoutError) as error:
            console.print(Text(f"shepherd chat: {places.url}: {error}", style="red"))
            return 4
        finally:
            runner.run(talk.__aexit__(None, None, None))
    return 0


def _converse(runner: asyncio.Runner, talk: Talk, console: Console) -> None:
    """Line after line; Ctrl-C gives up a line or an answer."""
    while True:
        try:
            if not runner.run(talk.take(input(PROMPT))):
                return
        except KeyboardInterrupt:
            console.print()
        except EOFError:
            console.print()
            return
