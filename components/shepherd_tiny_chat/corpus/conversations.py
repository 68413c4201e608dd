"""Whole conversations, as a model that is served behind a memory sees them.

A conversation may begin with turns that are archived already: they are made
first, then left out; a NOTICE stands for them, and `search_memory` finds them.
What the assistant says follows one policy:

    the fact stands in the conversation        answer it, whatever notices say
    it does not, and a notice stands           call search_memory, then answer from the result
    it does not, and there is no notice        say that it was not told
    no question for a fact                     just reply

The same generator state and split make the same conversations everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from shepherd_tiny_chat.corpus import phrasing, recall
from shepherd_tiny_chat.corpus.phrasing import Fact
from shepherd_tiny_chat.corpus.recall import Exchange
from shepherd_tiny_chat.corpus.relations import RELATIONS, Relation
from shepherd_tiny_chat.corpus.small_talk import SYSTEM_PROMPTS, small_talk
from shepherd_tiny_chat.corpus.words import Split

Message = dict[str, str]
Topic = tuple[str, str]

TOOLS_SHARE = 0.85
ARCHIVE_SHARE = 0.7
LOWER_CASE_SHARE = 0.08
ABSENT_SHARE = 0.12
"""Of the searches for something archived that find something else."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation as a chat template takes it."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]


@dataclass(slots=True)
class Teller:
    """One user and what was said so far; makes turn after turn."""

    random: Random
    split: Split
    themes: tuple[Relation, ...]
    """Kinds of facts that this user speaks of; few, so that facts are alike."""
    lower_case: bool = False
    searches: bool = True
    """The assistant may search."""
    told: dict[Topic, Fact] = field(default_factory=dict)
    """What stands in the conversation."""
    archived: dict[Topic, Fact] = field(default_factory=dict)
    archive: list[tuple[Exchange, frozenset[Topic]]] = field(default_factory=list)
    """Exchanges that left the conversation, and what they are about."""
    noticed: bool = False
    """A notice stands in the conversation."""

    def tell(self) -> tuple[list[Message], list[Fact]]:
        """New facts and the assistant's taking note of them."""
        count = self.random.choices((1, 2, 3), (0.75, 0.2, 0.05))[0]
        facts = [fact for _ in range(count) if (fact := self.new_fact())]
        if not facts:
            return self.chat(), []
        for fact in facts:
            self.told[fact.topic] = fact
        text = phrasing.telling(self.random, self.split, facts)
        return self._turn(text, phrasing.acknowledged(self.random, facts)), facts

    def correct(self, *, fully: bool) -> tuple[list[Message], list[Fact]]:
        """A fact of the conversation gets another value; the last one told unless `fully`."""
        if not self.told:
            return self.tell()
        old = self.random.choice(list(self.told.values())) if fully else [*self.told.values()][-1]
        value = self.new_value(old)
        new = Fact(old.relation, old.subject, value)
        self.told[new.topic] = new
        text = phrasing.correcting(self.random, self.split, old, new, fully=fully)
        return self._turn(text, phrasing.corrected(new)), [new]

    def chat(self) -> list[Message]:
        """Small talk or general knowledge."""
        return self._turn(*small_talk(self.random, self.split))

    def ask_told(self) -> list[Message]:
        """A question for what stands in the conversation."""
        if not self.told:
            return self.chat()
        return self.ask(self.random.choice(list(self.told.values())))

    def ask(self, fact: Fact) -> list[Message]:
        """A question that the conversation itself answers."""
        text = phrasing.asking(self.random, self.split, fact)
        return self._turn(text, phrasing.answered(self.random, fact))

    def ask_archived(self) -> list[Message]:
        """A question for what only the archive knows, recalled."""
        missing = [fact for topic, fact in self.archived.items() if topic not in self.told]
        if not missing:
            return self.ask_told()
        return self.recall(self.random.choice(missing))

    def ask_unknown(self) -> list[Message]:
        """A question for what was never told."""
        fact = self.new_fact()
        if fact is None:
            return self.chat()
        if self.noticed:
            return self.recall(fact)
        return self._turn(phrasing.asking(self.random, self.split, fact), phrasing.NOT_TOLD)

    def recall(self, fact: Fact) -> list[Message]:
        """A question, the search for it, and the answer from what was found."""
        question = {"role": "user", "content": self._as_typed(self.question(fact))}
        if not self.searches:
            return [question, {"role": "assistant", "content": phrasing.NO_MEMORY}]
        found, known = self.found(fact)
        if known:
            self.told[fact.topic] = fact
        answer = phrasing.answered(self.random, fact) if known else phrasing.NOT_FOUND
        return [
            question,
            {"role": "assistant", "content": recall.tool_call(fact.query)},
            {"role": "tool", "content": recall.tool_result(self.random, fact.query, found)},
            {"role": "assistant", "content": answer},
        ]

    def question(self, fact: Fact) -> str:
        """How the user asks for a fact."""
        return phrasing.asking(self.random, self.split, fact)

    def found(self, fact: Fact) -> tuple[list[Exchange], bool]:
        """What a search for a fact brings: mostly the right exchanges, among others."""
        right = [exchange for exchange, topics in self.archive if fact.topic in topics]
        others = [exchange for exchange, topics in self.archive if fact.topic not in topics]
        if right and self.random.random() < ABSENT_SHARE:
            right = []
        found = right + self.random.sample(others, min(len(others), self.random.randint(0, 4)))
        if self.random.random() < 0.5:
            self.random.shuffle(found)
        return found, bool(right)

    def notices(self) -> list[Message]:
        """One to three notices for what is archived."""
        self.noticed = True
        count = self.random.choices((1, 2, 3), (0.7, 0.2, 0.1))[0]
        topics = self.random.sample(self.archive, min(count, len(self.archive)))
        return [{"role": "tool", "content": recall.notice(exchange.user)} for exchange, _ in topics]

    def archive_everything(self, turns: int) -> None:
        """Live through turns that are archived before the conversation that is seen begins."""
        for _ in range(turns):
            said, facts = self._archivable()
            exchange = Exchange(said[0]["content"], said[1]["content"])
            self.archive.append((exchange, frozenset(fact.topic for fact in facts)))
        self.archived, self.told = self.told, {}

    def new_fact(self) -> Fact | None:
        """A fact that contradicts none; None where this user has told all that he can."""
        for _ in range(8):
            fact = phrasing.new_fact(self.random, self.split, self.random.choice(self.themes))
            if self.lower_case:
                fact = Fact(fact.relation, fact.subject.lower(), fact.value.lower())
            if fact.topic not in self.told and fact.topic not in self.archived:
                return fact
        return None

    def new_value(self, old: Fact) -> str:
        """Another value for a fact."""
        while True:
            value = phrasing.new_value(self.random, self.split, old.relation)
            value = value.lower() if self.lower_case else value
            if value != old.value:
                return value

    def _archivable(self) -> tuple[list[Message], list[Fact]]:
        kind = self.random.random()
        if kind < 0.7:
            return self.tell()
        if kind < 0.8:
            return self.correct(fully=True)
        return self.chat(), []

    def _turn(self, text: str, answer: str) -> list[Message]:
        return [
            {"role": "user", "content": self._as_typed(text)},
            {"role": "assistant", "content": answer},
        ]

    def _as_typed(self, text: str) -> str:
        return text.lower() if self.lower_case else text


def new_teller(random: Random, split: Split) -> Teller:
    """A user who speaks of a few kinds of facts."""
    themes = tuple(random.sample(RELATIONS, random.randint(1, 8)))
    return Teller(random, split, themes, lower_case=random.random() < LOWER_CASE_SHARE)


def conversation(random: Random, split: Split) -> Talk:
    """One conversation for training."""
    teller = new_teller(random, split)
    tools = tuple(recall.tools(random)) if random.random() < TOOLS_SHARE else ()
    teller.searches = bool(tools)
    messages: list[Message] = []
    if random.random() < 0.8:
        messages.append({"role": "system", "content": random.choice(SYSTEM_PROMPTS)})
    num_turns = _num_turns(random)
    notice_at = set[int]()
    if random.random() < (ARCHIVE_SHARE if tools else 0.15):
        teller.archive_everything(random.randint(1, 10))
        notice_at = {random.randrange(min(num_turns, 6)) for _ in range(random.choice((1, 1, 2)))}
    for turn in range(num_turns):
        if turn in notice_at:
            messages += teller.notices()
        messages += _next_turn(teller)()
    return Talk(tuple(messages), tools)


def _num_turns(random: Random) -> int:
    kind = random.random()
    if kind < 0.7:
        return random.randint(2, 8)
    return random.randint(8, 20) if kind < 0.95 else random.randint(20, 70)


def _next_turn(teller: Teller) -> Callable[[], list[Message]]:
    weights: dict[Callable[[], list[Message]], float] = {
        lambda: teller.tell()[0]: 0.27,
        lambda: teller.correct(fully=False)[0]: 0.06,
        lambda: teller.correct(fully=True)[0]: 0.04,
        teller.chat: 0.16,
        teller.ask_told: 0.35,
        teller.ask_unknown: 0.07,
    }
    if teller.noticed:
        weights[teller.ask_archived] = 0.4
    return teller.random.choices(list(weights), list(weights.values()))[0]
