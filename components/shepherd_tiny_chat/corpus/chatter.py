"""Sentences about nothing, in any number: what a model must learn to see past.

They stand around questions and facts, and alone as small talk.  For training
only: the held-out split has by-talk of its own.
"""

from __future__ import annotations

from random import Random

from shepherd_tiny_chat.corpus import words


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


_WHO = _lines(
    "I|I|I|I|we|we|my mother|the neighbours|everybody|she|he|they|somebody|the children|an old man|nobody|my head|the rain|the radio|you"
)
_DID = _lines(
    "was thinking of|went to|sat in|lost|looked at|waited for|talked about|came from|ran past|dreamt of|walked to|heard of|liked|missed|was near|was full of|needed|laughed about|read about|paid for|cleaned|slept in|worked on|wrote about|should know|mentioned|spent time with|had a moment for|looked up|was on the way to|could not find|was off to|got up for|could see|will have|would have"
)
_WHAT = _lines(
    "the kitchen|some coffee|a letter|the news|the weather|a dream|my tongue|the mind|a tip|a friend|the moment|the end of the day|that story|the whole world|nothing|everything|the second floor|the first step|your help|a long list|the bed|my stomach|my eyes|the office|the woods|the flat|skills|a laugh|a chat|television|the shops|a trip|a second|the record|a case|a detail|the question"
)
_WHEN = _lines(
    "||||||| today| yesterday| again| last night| in the morning| some time ago| for a while| at noon| later| by the way| since then| right now| all day| as always"
)
_CONJUNCTIONS = _lines(
    "Before|While|After|When|As|Since|Although|Because|Now that|In case|Until|If"
)
_GREETINGS = _lines(
    "Hello|Hi|Hey|Oh|Well|Good day|Welcome|So long|Until then|Dear friend|My friend|Assistant|Wow|Hm|Aha|Super|Perfect|Too bad|What a day|Very nice|Great"
)
_ASKED = _lines(
    "Do you like {}?|Have you ever seen {}?|Can you see {}?|Are you fond of {}?|Do you need {}?|What do you think of {}?|May I speak about {}?|Do you have {}?|Could you bring {}?|Are you near {}?|Is there {}?|What is it like with {}?|Do you dream of {}?|How about {}?"
)


_VAGUE_SHARE = 0.3
"""Of the clauses, those that sound like a fact and name none."""
_IT = _lines("it|it|it|that|this|something|everything|my day|life")
_IS = _lines("is|is|was|will be|must be|is not|has been|feels like|stays|looks like it is")
_WHERE = _lines(
    "in|on|near|behind|under|over|beyond|at the end of|at the bottom of|in the middle of|part of|out of|far from|about|for|like|just|more than"
)


def clause(random: Random) -> str:
    """Half a sentence, lower case but for "I"."""
    if random.random() < _VAGUE_SHARE:
        where = f"{random.choice(_WHERE)} {_thing(random)}"
        return f"{random.choice(_IT)} {random.choice(_IS)} {where}{random.choice(_WHEN)}"
    return f"{random.choice(_WHO)} {random.choice(_DID)} {_thing(random)}{random.choice(_WHEN)}"


def opener(random: Random) -> str:
    """What stands before a sentence."""
    kind = random.random()
    if kind < 0.4:
        return f"{random.choice(_CONJUNCTIONS)} {clause(random)}, "
    if kind < 0.6:
        return f"{random.choice(_GREETINGS)}, "
    text = clause(random)
    return f"{text[0].upper()}{text[1:]}{random.choice((': ', '. ', '. ', ', '))}"


def closer(random: Random) -> str:
    """A sentence that follows another."""
    text = clause(random)
    return f" {text[0].upper()}{text[1:]}{random.choice('..!')}"


def chatter(random: Random) -> tuple[str, str]:
    """A message that says nothing, and the reply."""
    kind = random.random()
    if kind < 0.5:
        return closer(random).strip() + (closer(random) if kind < 0.15 else ""), "I see."
    if kind < 0.75:
        return random.choice(_ASKED).format(_thing(random)), "I am only a tiny chat model."
    greeting = random.choice(_GREETINGS) if kind < 0.85 else words.name(random)
    return greeting + random.choice(("!", ".", "!", "")), "Hello! How can I help you?"


def _thing(random: Random) -> str:
    kind = random.random()
    if kind < 0.6:
        return random.choice(_WHAT)
    return f"{random.choice(('the', 'a', 'my', 'that'))} {words.made_up_noun(random)}"
