"""People who talk, each from a seed: they ask, ask again when it fails, and write down what they saw."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import aiohttp

from shepherd_cli.chat import ChatError, Conversation
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE
from soak_system.oracle import Oracle

ATTEMPT_S = 25.0
AGAIN_S = 0.3
MAX_THOUGHT_S = 2.0
NAMES = ("Biscuit", "Pepper", "Domino", "Tibbles", "Kiwi", "Rufus", "Clover", "Maple")
MAX_SHOWN = 80
MAX_ATTEMPTS = 3
NO_ROOM = "maximum context length"
"""What a prompt is refused with that no turn can be left out of."""
_MESSAGE = re.compile(r"""['"]message['"]: ?['"](.*?)['"][,}]""")
PETS = ("dog", "cat", "horse", "parrot", "hamster", "goat")


@dataclass(slots=True)
class Clients:
    """Everybody; they pause when they are told to, between two turns."""

    http: aiohttp.ClientSession
    url: str
    model: str
    oracle: Oracle
    may_talk: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)
    num_talking: int = 0
    is_calm: bool = False
    """Nothing is broken any more."""

    async def talk(self, name: str, seed: str) -> None:
        """One conversation after another, until cancelled."""
        random = Random(seed)
        while True:
            session = f"{name}-{self.counts[name]}"
            chat = Conversation(self.http, self.url, self.model, session_id=session)
            for ordinal, text in enumerate(questions(random), start=1):
                await asyncio.sleep(random.uniform(0.0, MAX_THOUGHT_S))
                await self.may_talk.wait()
                if not await self._ask(chat, ordinal, text):
                    self.counts["conversations given up: no room in the window"] += 1
                    break
            self.counts[name] += 1

    async def _ask(self, chat: Conversation, ordinal: int, text: str) -> bool:
        """Ask until there is an answer; False where the window has no room for one."""
        turn = self.oracle.asks(chat.session_id, ordinal, text, is_calm=self.is_calm)
        self.num_talking += 1
        try:
            while turn.answer is None:
                pieces: list[str] = []
                try:
                    async with asyncio.timeout(ATTEMPT_S):
                        async for piece in chat.say(text):
                            pieces.append(piece)  # noqa: PERF401 - what came before it failed
                except (ChatError, aiohttp.ClientError, TimeoutError) as error:
                    turn.broken.append("".join(pieces))
                    self.counts[f"failed: {_kind(error)}"] += 1
                    if len(turn.broken) >= MAX_ATTEMPTS and NO_ROOM in str(error):
                        return False
                    await asyncio.sleep(AGAIN_S)
                else:
                    turn.answer, turn.answered_s = "".join(pieces), time.monotonic()
                    self.counts["answers"] += 1
                    self.counts["answers with a NOTICE"] += chat.num_notices > 0
            return True
        finally:
            self.num_talking -= 1


def _kind(error: Exception) -> str:
    if not isinstance(error, ChatError):
        return type(error).__name__
    found = _MESSAGE.search(str(error))
    told = re.sub(r"\d+", "N", found[1]) if found else ""
    return f"HTTP {error.status} {told[:MAX_SHOWN]}".strip()


def questions(random: Random) -> list[str]:
    """What is said in one conversation, nothing twice: facts, questions about them, and others."""
    pets = random.sample(PETS, random.randint(1, 3))
    facts = [f"My {pet} is called {random.choice(NAMES)}." for pet in pets]
    others = [question for question, _ in random.sample(KNOWLEDGE, random.randint(2, 5))]
    return [*facts, *others, *(f"What is my {pet} called?" for pet in pets)]
