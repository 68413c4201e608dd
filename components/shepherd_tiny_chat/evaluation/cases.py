"""Held-out questions, each with what makes an answer right.

Everything in them is of the held-out split, but for the system prompts, the
tool's other functions and general knowledge, of which there is only one kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from shepherd_tiny_chat.corpus import recall
from shepherd_tiny_chat.corpus.conversations import Message, Teller, new_teller
from shepherd_tiny_chat.corpus.phrasing import Fact
from shepherd_tiny_chat.corpus.recall import Exchange
from shepherd_tiny_chat.corpus.relations import RELATIONS
from shepherd_tiny_chat.corpus.small_talk import SYSTEM_PROMPTS

NUM_DISTRACTORS = 40
"""Exchanges of other conversations that stand in the archive, too."""


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation that ends with a user's message."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    fact: Fact | None = None
    """What is asked for; None where the message asks for no fact."""
    archive: tuple[Exchange, ...] = ()
    right: frozenset[int] = frozenset()
    """Which exchanges of the archive tell the fact."""

    def followed_by(self, *messages: Message) -> Case:
        """The same with more said."""
        return Case((*self.messages, *messages), self.tools, self.fact, self.archive, self.right)


def told_case(random: Random) -> Case:
    """The fact stands in the conversation: among others, corrected, long ago, notices or not."""
    while True:
        teller, messages, tools = _begin(random, archived=random.random() < 0.5)
        messages += _live(teller, random.randint(2, 12))
        if teller.told:
            return _ask(teller, messages, tools, random.choice(list(teller.told.values())))


def archived_case(random: Random) -> Case:
    """The fact is archived, a notice stands."""
    while True:
        teller, messages, tools = _begin(random, archived=True)
        messages += _live(teller, random.randint(0, 6))
        missing = [f for topic, f in teller.archived.items() if topic not in teller.told]
        if missing:
            return _ask(teller, messages, tools, random.choice(missing))


def small_talk_case(random: Random) -> Case:
    """A notice stands, but the message asks for no fact."""
    teller, messages, tools = _begin(random, archived=True)
    messages += _live(teller, random.randint(0, 6))
    return Case((*messages, teller.chat()[0]), tools)


def unknown_case(random: Random) -> Case:
    """The fact was never told and no notice stands."""
    while True:
        teller, messages, tools = _begin(random, archived=False)
        messages += _live(teller, random.randint(1, 6))
        if fact := teller.new_fact():
            return _ask(teller, messages, tools, fact)


def _begin(
    random: Random, *, archived: bool
) -> tuple[Teller, list[Message], tuple[dict[str, Any], ...]]:
    teller = new_teller(random, "heldout")
    teller.lower_case = False
    messages: list[Message] = []
    if random.random() < 0.8:
        messages.append({"role": "system", "content": random.choice(SYSTEM_PROMPTS)})
    if archived:
        while not teller.archived:
            teller.archive_everything(random.randint(2, 10))
        messages += teller.notices()
    return teller, messages, tuple(recall.tools(random))


def _live(teller: Teller, turns: int) -> list[Message]:
    messages: list[Message] = []
    for _ in range(turns):
        kind = teller.random.random()
        if kind < 0.45:
            messages += teller.tell()[0]
        elif kind < 0.6:
            messages += teller.correct(fully=teller.random.random() < 0.5)[0]
        else:
            messages += teller.chat() if kind < 0.8 else teller.ask_told()
    return messages


def _ask(
    teller: Teller, messages: list[Message], tools: tuple[dict[str, Any], ...], fact: Fact
) -> Case:
    question = {"role": "user", "content": teller.question(fact)}
    archive = [exchange for exchange, _ in teller.archive]
    right = {n for n, (_, topics) in enumerate(teller.archive) if fact.topic in topics}
    archive += _distractors(teller.random, fact)
    order = list(range(len(archive)))
    teller.random.shuffle(order)
    return Case(
        (*messages, question),
        tools,
        fact,
        tuple(archive[place] for place in order),
        frozenset(place for place, origin in enumerate(order) if origin in right),
    )


def _distractors(random: Random, fact: Fact) -> list[Exchange]:
    """What others told: alike, but never about the same."""
    found: list[Exchange] = []
    while len(found) < NUM_DISTRACTORS:
        other = Teller(random, "heldout", RELATIONS)
        other.archive_everything(4)
        found += [exchange for exchange, topics in other.archive if fact.topic not in topics]
    return found[:NUM_DISTRACTORS]
