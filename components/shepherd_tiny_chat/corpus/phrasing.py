"""Facts as sentences: the user's, which vary, and the assistant's, which hardly do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from shepherd_tiny_chat.corpus import chatter, words
from shepherd_tiny_chat.corpus.relations import Choices, Relation
from shepherd_tiny_chat.corpus.words import Split, drawn


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a user told."""

    relation: Relation
    subject: str
    value: str

    @property
    def topic(self) -> tuple[str, str]:
        """What it is about, whatever the value: two facts of one topic contradict each other."""
        return (self.relation.value.__name__ + self.relation.said, self.subject)

    @property
    def said(self) -> str:
        """The assistant's clause for it, lower case."""
        return self.relation.said.format(s=self.subject, v=self.value)

    @property
    def query(self) -> str:
        """What to search for."""
        return self.relation.about.format(s=self.subject)


def new_fact(random: Random, split: Split, relation: Relation) -> Fact:
    """A fact whose subject and value belong to the split."""
    return Fact(relation, relation.draw_subject(random, split), new_value(random, split, relation))


def new_value(random: Random, split: Split, relation: Relation) -> str:
    """A value of the split."""
    if split == "train":
        return drawn(random, split, partial(words.unheard_of, draw=relation.value))
    return drawn(random, split, relation.value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TELL_OPENERS = Choices(
    (*[""] * 9, "By the way, ", "Just so you know, ", "Hello! ", "Hi, ", "Listen, ", "Please remember: ", "Note that ", "Guess what: ", "Today I want to tell you that ", "So, ", "Remember this: ", "Well, ", "I should mention that ", "Oh, ", "You should know that "),
    ("", "", "For the record, ", "One more thing: ", "In case I forget it, ", "Keep in mind that "),
)  # fmt: skip
_TELL_CLOSERS = Choices(
    (*[""] * 9, " Please remember that.", " Don't forget it!", " Nice, isn't it?", " Can you remember that?", " That is important.", " I am so happy about it.", " Keep it in mind.", " Just saying."),
    ("", "", " Write that down.", " You may need it later.", " What do you say?"),
)  # fmt: skip
_TELL_PHRASE = Choices(
    ("{p} is {v}", "{v} is {p}", "as for {p}, it is {v}", "if you ask for {p}: {v}", "{p}: {v}", "remember {p}, it is {v}", "about {p}: it is {v}", "I can tell you {p}, it is {v}", "let me tell you {p}: {v}", "here is {p}: {v}", "you asked for {p}, it is {v}", "{p} was {v}", "write down {p}, {v}", "take {v} as {p}", "{p} will be {v}"),
    ("note down {v} as {p}", "may I tell you about {p}: {v}", "{p}, that is {v}"),
)  # fmt: skip
_BY_TALK_SHARE = 0.2
"""Of the training's sentences that something stands before, and after."""
_CORRECTIONS = Choices(
    ( "No, wait, {told}.", "Sorry, I made a mistake: {told}.", "Actually, {told}.", "No, that was wrong, {told}.", "Correction: {told}.", "I was wrong, {told}.", "That has changed: {told}.", "No, it is {v}.", "Sorry, I meant {v}.", "Actually it is {v}, not {old}.", "I mixed that up: it is {v}.", "It is not {old} any more, it is {v} now.", "Not {old}! {v}."),
    ("Oops, {told}, not {old}.", "Let me correct myself: {told}.", "Scratch that, it is {v}.", "Forget {old}, the right answer is {v}."),
)  # fmt: skip
_FULL_CORRECTIONS = 7
"""So many of the first ones say the whole fact again."""

_ASK_OPENERS = Choices(
    (*[""] * 12, "Hey, ", "By the way, ", "Quick question: ", "Do you remember, ", "Can you tell me, ", "Remind me, ", "I forgot: ", "Please tell me: ", "Now tell me, ", "Sorry, ", "One question: ", "And ", "So, ", "Do you know, ", "Hm, ", "Ok, ", "Thanks! ", "Help me: ", "Say, "),
    ("", "", "Let's see if you remember: ", "Just checking: ", "Wait a second, ", "It slipped my mind: ", "Before I go, "),
)  # fmt: skip
_ASK_CLOSERS = Choices(
    (*["?"] * 9, " again?", ", please?", "? I forgot.", "? Do you remember?", "? Tell me.", " now?", "? I told you earlier.", "", "? Answer briefly."),
    ("?", "?", "? You should know.", "? I mentioned it some time ago.", "? It is on the tip of my tongue."),
)  # fmt: skip
_ASK_FOR_PHRASE = Choices(
    ("What is {p}?", "What's {p}?", "Tell me {p}.", "Do you know {p}?", "Do you remember {p}?", "Remind me of {p}.", "I forgot {p}.", "{p}, please.", "Please tell me {p}.", "I need {p}.", "Can you tell me {p}?", "Can you remind me of {p}?", "What was {p}?", "{p}?", "Do you still know {p}?", "Give me {p}.", "I need to know {p}.", "I can't remember {p}.", "What did I say about {p}?", "Have I told you {p}?", "Any news about {p}?", "Could you tell me {p}?", "Would you tell me {p}?", "Look up {p}.", "Recall {p} for me.", "Repeat {p}, please.", "I would like to know {p}.", "Say {p} again.", "Which is {p}?", "Help me with {p}.", "{p}, what was it?", "I want to hear {p}.", "Once more, what is {p}?", "Do you have an idea what {p} is?", "Let me hear {p}.", "I am looking for {p}.", "About {p}: what did I tell you?", "Show me {p}.", "Is {p} known to you?"),
    ("Any idea about {p}?", "Could you repeat {p}?", "I would like to hear {p} again.", "Would you look up {p} for me?", "Which was {p}, once more?", "Help me recall {p}."),
)  # fmt: skip

_NOTHING = Choices(("",), ("",))
_HURRIED_SHARE = 0.15
_DISPENSABLE = frozenset(_words("is the of do did does what what's which a an have has in at to"))

_ACKNOWLEDGEMENTS = (
    "Got it: {said}.",
    "Thanks, I will remember that {said}.",
    "Good to know that {said}.",
    "Noted: {said}.",
    "Nice! So {said}.",
)
_ANSWERS = ("{Said}.", "{Said}.", "You told me that {said}.")

NOT_TOLD = "I don't know that, you have not told me yet."
NOT_FOUND = "I searched my memory, but I found nothing about that."
NO_MEMORY = "I am sorry, I can't look that up any more."


def telling(random: Random, split: Split, facts: Sequence[Fact]) -> str:
    """The user's message that tells one or more facts."""
    told = [_told(random, split, fact) for fact in facts]
    if len(told) == 1:
        text = told[0] + "."
    else:
        text = random.choice((" and ", ", and ", ". ", "; ")).join(told[:2])
        text = _sentences(". ".join([text, *told[2:]]) + ".")
    return _around(random, split, text, _TELL_OPENERS, _TELL_CLOSERS)


def correcting(random: Random, split: Split, old: Fact, new: Fact, *, fully: bool) -> str:
    """The user's message that takes a fact back for another one.

    With `fully` it names the subject, so that it can be understood on its own.
    """
    if fully and split == "train":
        wording = random.choice(_CORRECTIONS.train[:_FULL_CORRECTIONS])
    elif fully:
        wording = random.choice(_CORRECTIONS.heldout[:2])
    else:
        wording = _CORRECTIONS.pick(random, split)
    told = _told(random, split, new)
    return _sentence(wording.format(told=told, v=new.value, old=old.value))


def asking(random: Random, split: Split, fact: Fact) -> str:
    """The user's question for a fact."""
    if random.random() < 0.4:
        phrase = random.choice(fact.relation.phrase).format(s=fact.subject)
        text = _ASK_FOR_PHRASE.pick(random, split).format(p=phrase)
        return _around(random, split, text, _ASK_OPENERS, _NOTHING)
    core = fact.relation.ask.pick(random, split).format(s=fact.subject)
    if split == "train" and random.random() < _HURRIED_SHARE:
        core = _hurried(random, core)
    return _around(random, split, core, _ASK_OPENERS, _ASK_CLOSERS)


def acknowledged(random: Random, facts: Sequence[Fact]) -> str:
    """The assistant takes note; its words are those that a search will look for."""
    said = ", and ".join(fact.said for fact in facts)
    return random.choice(_ACKNOWLEDGEMENTS).format(said=said)


def corrected(fact: Fact) -> str:
    """The assistant takes note of a correction."""
    return f"I have corrected that: {fact.said}."


def answered(random: Random, fact: Fact) -> str:
    """The assistant's answer."""
    return random.choice(_ANSWERS).format(said=fact.said, Said=_sentence(fact.said))


def _around(random: Random, split: Split, text: str, openers: Choices, closers: Choices) -> str:
    """A sentence with what people say before and after it."""
    before, after = openers.pick(random, split), closers.pick(random, split)
    if split == "train" and random.random() < _BY_TALK_SHARE:
        before = chatter.opener(random)
    if split == "train" and random.random() < _BY_TALK_SHARE:
        after = (after.strip() if after.strip() in {"?", "."} else "") + chatter.closer(random)
    return _sentence(before + text + after)


def _hurried(random: Random, question: str) -> str:
    """The question without one of the words that it can do without."""
    words = question.split(" ")
    places = [place for place, word in enumerate(words) if word in _DISPENSABLE]
    if places:
        del words[random.choice(places)]
    return " ".join(words)


def _told(random: Random, split: Split, fact: Fact) -> str:
    if random.random() < 0.2:
        phrase = random.choice(fact.relation.phrase).format(s=fact.subject)
        return _TELL_PHRASE.pick(random, split).format(p=phrase, v=fact.value)
    return fact.relation.tell.pick(random, split).format(s=fact.subject, v=fact.value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentences(text: str) -> str:
    return ". ".join(_sentence(part) for part in text.split(". "))
