"""What can be known of a person, and how it is told, asked and said.

A relation is a table row: `{s}` is its subject, `{v}` the value.  Sentences are
lower case at the beginning and lack their full stop; `phrasing.py` makes
sentences of them.  Wordings and subjects are divided by hand into those that
training uses and those that only the held-out evaluation knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from shepherd_tiny_chat.corpus import words
from shepherd_tiny_chat.corpus.words import Draw, Split, drawn

UNHEARD_OF_SHARE = 0.5
"""Of the subjects in training that are made up, so that subjects are copied and not guessed."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Alternatives, divided by hand."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def pick(self, random: Random, split: Split) -> str:
        """One alternative of the split."""
        return random.choice(self.train if split == "train" else self.heldout)


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact."""

    key: str
    value: Draw
    said: str
    """What the assistant says of it, in its own perspective: the answer, too."""
    about: str
    """What one searches for; its words stand in `said`."""
    phrase: tuple[str, ...]
    """Noun phrases for the value, in the user's perspective."""
    tell: Choices
    ask: Choices
    subject: Choices | Draw | None = None
    """None: it is about the user, there is one value."""

    def draw_subject(self, random: Random, split: Split) -> str:
        """Whom or what a fact is about; empty where it is the user."""
        match self.subject:
            case None:
                return ""
            case Choices():
                if split == "train" and random.random() < UNHEARD_OF_SHARE:
                    return drawn(random, split, words.made_up_noun)
                return self.subject.pick(random, split)
            case _:
                return drawn(random, split, self.subject)


def _choices(train: str, heldout: str) -> Choices:
    return Choices(_lines(train), _lines(heldout))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("|"))


_PETS = _choices(
    "cat|dog|parrot|hamster|rabbit|pony|turtle|goldfish|canary|guinea pig|snake|goat|mouse|duck|horse|kitten|puppy|pig|donkey|frog",
    "ferret|gecko|llama|hen",
)
_PEOPLE = _choices(
    "sister|brother|neighbour|boss|teacher|cousin|best friend|aunt|uncle|daughter|son|doctor|flatmate|grandmother|coach|husband|wife",
    "nephew|landlord|dentist|colleague",
)
_LOCKED = _choices(
    "bike lock|locker|garage|safe|front door|alarm|suitcase|office|gate|phone|parking lot|storage room|mailbox|lab|cellar",
    "garden shed|cash box|lift|boat house",
)
_PROTECTED = _choices(
    "wifi|laptop|email account|work computer|router|bank account|cloud drive|printer|tablet|library account",
    "music account|server|game console|photo album",
)
_EVENTS = _choices(
    "birthday|wedding|exam|flight|job interview|concert|move|graduation|holiday|operation|driving test|party|marathon|school reunion",
    "vernissage|court hearing|boat trip|book launch",
)
_MEETINGS = _choices(
    "train|bus|dentist appointment|meeting|yoga class|lecture|phone call|piano lesson|film|dinner|ferry",
    "haircut|rehearsal|tram|guided tour",
)
_NUMBERED = _choices(
    "seat|house|room|order|flight|ticket|hotel room|platform|invoice|bus|member card|apartment",
    "table|parcel|booth|permit",
)
_OBJECTS = _choices(
    "keys|passport|glasses|umbrella|phone charger|wallet|headphones|camera|scissors|tickets|notebook|spare key|watch|gloves|torch",
    "screwdriver|diary|sunscreen|binoculars",
)
_TITLED = _choices(
    "book|film|song|album|board game|novel|play|poem|video game|series",
    "opera|podcast|comic|musical",
)


def _possessed(random: Random) -> str:
    return f"{random.choice(_PEOPLE.train)}'s {random.choice(_PETS.train)}"


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "own name", words.name, "your name is {v}", "your name", ("my name", "my own name"),
        _choices("my name is {v}|I am {v}|I'm {v}|call me {v}|people call me {v}|you can call me {v}|this is {v} speaking|you may know me as {v}|my friends know me as {v}|the name I go by is {v}|they gave me the name {v}|I was named {v}|it is {v}, that is my name|hello from {v}|everybody calls me {v}|my parents named me {v}|I introduce myself: {v}|the name is {v}, nice to meet you", "I go by {v}|the name is {v}|everyone knows me as {v}"),
        _choices("what is my name|what's my name|who am I|what am I called|how am I called|what do people call me|what was my name|which name do I have|by which name do you know me|do you know who I am|who is speaking to you|under which name am I known|which name did I tell you|how did I introduce myself|have I given you a name|what name did my parents give me|whom are you talking to|how should you call me", "which name did I give you|under what name do you know me|do I have a name"),
    ),
    Relation(
        "pet", words.name, "your {s} is called {v}", "name of {s}", ("the name of my {s}", "my {s}'s name"),
        _choices("my {s} is called {v}|my {s}'s name is {v}|I have a {s} named {v}|I named my {s} {v}|we have a {s} called {v}|our {s} is called {v}|the name of my {s} is {v}|I just got a {s}, her name is {v}|my {s} is named {v}|my {s} goes by {v}|at home I have a {s} called {v}|there lives a {s} with me, {v} is the name|the {s} that I own is called {v}|{v} is my {s}|my {s} answers to {v}|we call our {s} {v}|I share my home with {v}, a {s}|the name that we decided on for our {s} is {v}|I live with a {s}, it is called {v}|my {s} listens to the name {v}|I adopted a {s} and called it {v}|I gave my {s} the name {v}", "the {s} that lives with me goes by {v}|I share my flat with a {s} called {v}|we decided to call our {s} {v}"),
        _choices("what is my {s} called|what is the name of my {s}|what's my {s}'s name|what did I name my {s}|how is my {s} called|which name does my {s} have|what is my {s} named|what did I call my {s}|who is my {s}|my {s}, how is it called|which name have I given to my {s}|what name does my {s} have|to which name does my {s} answer|how do I call my {s}|what was my {s}'s name|what do we call our {s}|I have a {s}, what is its name|which name belongs to my {s}|what name did we choose for our {s}|by which name does my {s} go", "what do I call my {s}|which name did I give my {s}|my {s} answers to what name"),
        _PETS,
    ),
    Relation(
        "somebody's pet", words.name, "your {s} is called {v}", "name of {s}", ("the name of my {s}",),
        _choices("my {s} is called {v}|the name of my {s} is {v}|my {s} is named {v}|my {s}'s name is {v}|{v} is the name of my {s}|they call my {s} {v}|my {s} listens to {v}|the name {v} belongs to my {s}|my {s} got the name {v}|everybody calls my {s} {v}|my {s}, which is called {v}, came to visit|by the name of {v} goes my {s}|to {v} answers my {s}", "my {s} goes by {v}|my {s} answers to {v}"),
        _choices("what is my {s} called|what is the name of my {s}|how is my {s} called|what is my {s} named|my {s}, how is it called|which name does my {s} have|what do they call my {s}|what is my {s}'s name|to which name does my {s} listen|by which name goes my {s}|which name was my {s} given|what name has my {s} got|who is my {s}|what was my {s} called", "what name does my {s} go by|which name did my {s} get"),
        _possessed,
    ),
    Relation(
        "person", words.name, "your {s} is called {v}", "name of {s}", ("the name of my {s}", "my {s}'s name"),
        _choices("my {s} is called {v}|my {s}'s name is {v}|I have a {s} named {v}|the name of my {s} is {v}|{v} is my {s}|my {s} is {v}|I met my {s} {v} today|my {s} goes by {v}|the {s} I have is called {v}|there is {v}, my {s}|people call my {s} {v}|I know my {s} by the name {v}|let me tell you about my {s} {v}|{v}, who is my {s}, says hello|the name {v} belongs to my {s}|my {s}, whose name is {v}, lives next door|you must meet {v}, my {s}|my {s} introduced himself as {v}", "you should meet my {s}, {v}|there is my {s}, who is called {v}"),
        _choices("what is my {s} called|what is the name of my {s}|what's my {s}'s name|who is my {s}|how is my {s} called|what is my {s} named|my {s}, what is the name|which name does my {s} have|how do people call my {s}|by which name goes my {s}|what was my {s}'s name|do you know who my {s} is|what name has my {s}|which name did I tell you for my {s}|I have a {s}, what is the name|under which name do I know my {s}|whom do I call my {s}", "by what name do I know my {s}|what do people call my {s}"),
        _PEOPLE,
    ),
    Relation(
        "home", words.city, "you live in {v}", "you live", ("the city I live in", "my home town", "the place where I live"),
        _choices("I live in {v}|my home is in {v}|I moved to {v}|I am living in {v}|I have lived in {v} for years|we live in {v}|my flat is in {v}|{v} is where I live|my house stands in {v}|I settled in {v}|home for me is {v}|these days I live in {v}|I found a flat in {v}|I have a place in {v}|you can find me in {v}, I live there|I rent a room in {v}|my address is in {v}|since last year I live in {v}|I call {v} my home|the town I live in is {v}", "I settled down in {v}|these days {v} is my home|you find me in {v}"),
        _choices("where do I live|which city do I live in|in which city do I live|where is my home|what city am I living in|where am I at home|what town do I live in|which place do I live in|in which place do I have my flat|where is my flat|where is my house|what is the town I live in|which town is my home|in what town do I live|what place do I call home|where do you find me at home|did I say where I live|in which town is my flat|where have I settled", "in what place is my flat|which town do I call home|where did I say I live"),
    ),
    Relation(
        "birthplace", words.city, "you were born in {v}", "you were born", ("the city I was born in", "my birthplace"),
        _choices("I was born in {v}|my birthplace is {v}|I come from {v}|I am originally from {v}|I was born and raised in {v}|I began my life in {v}|I was a baby in {v}, I was born there|my family lived in {v} when I was born|the town where I was born is {v}|my roots are in {v}, I was born there|{v} is where I was born|originally I am from {v}|my mother gave birth to me in {v}|I saw the light of the world in {v}|I first cried in {v}, where my cradle was", "my life began in {v}|my cradle stood in {v}"),
        _choices("where was I born|which city was I born in|where do I come from|what is my birthplace|in which city was I born|in which town was I born|where am I from|where am I originally from|from which town do I come|which town did my life start in|where did I begin my life|what town was I born in|where stood my cradle|what is the town of my birth|from where do I come originally|in what place was I born", "which town am I from originally|where did my life begin"),
    ),
    Relation(
        "job", words.job, "you work as a {v}", "you work", ("my job", "my profession", "what I work as"),
        _choices("I work as a {v}|I am a {v}|my job is {v}|I earn my money as a {v}|I became a {v}|my profession is {v}|I'm a {v} by profession|I make money as a {v}|I am employed as a {v}|my work is that of a {v}|they hired me as a {v}|for a living I am a {v}|I was trained to be a {v}|these days I work as a {v}|I got a position as a {v}|I have been a {v} for years|my living comes from being a {v}|every day I go to work as a {v}", "I make my living as a {v}|these days I am employed as a {v}"),
        _choices("what is my job|what do I work as|what's my profession|what do I do for work|what do I do for a living|which job do I have|where do I work, as what|which work do I do|what is my work|how do I make money|which profession do I have|with what do I earn my money|as what am I employed|what kind of job do I have|what was my job|what am I by profession|how do I make my living|what did I tell you about my work|what sort of work is mine", "how do I earn my living|what kind of work do I do"),
    ),
    Relation(
        "favourite colour", words.colour, "your favourite colour is {v}", "favourite colour", ("my favourite colour", "the colour I like best"),
        _choices("my favourite colour is {v}|I like {v} best of all colours|the colour I love most is {v}|I love the colour {v}|I prefer the colour {v}|{v} is my favourite colour|the best colour is {v}|I would choose {v} of all colours|if I choose a colour it is {v}|no other colour pleases me like {v}|of all the colours I like {v}|the nicest colour to me is {v}|my clothes are {v}, the colour I like", "no colour is as nice as {v} to me|of all colours I prefer {v}"),
        _choices("what is my favourite colour|which colour do I like best|what's my favourite colour|which colour do I love|what colour do I like most|which colour is my favourite|what colour do I prefer|which colour would I choose|which is the nicest colour to me|what is the best colour for me|of all colours, which do I like|the colour I like most is which|which colour pleases me|what colour is my favourite one", "which colour do I prefer|what colour would I choose"),
    ),
    Relation(
        "favourite food", words.food, "your favourite food is {v}", "favourite food", ("my favourite food", "my favourite dish", "the food I like best"),
        _choices("my favourite food is {v}|I love {v}|my favourite dish is {v}|I could eat {v} every day|there is no better food than {v}|I like {v} more than any food|{v} tastes best to me|I enjoy {v} more than anything on a plate|what I like to eat is {v}|I am fond of {v}|give me {v} and I am happy, I love that food|the dish I love is {v}|nothing is as tasty as {v}|I always eat {v}, my favourite|{v} is my favourite dish|for dinner I want {v}, as always|I am a great fan of {v}", "nothing tastes better than {v}|I am crazy about {v}"),
        _choices("what is my favourite food|what's my favourite dish|what do I like to eat|which food do I like best|what food do I love|what do I love to eat|which dish is my favourite|what food is my favourite|which dish do I love|what tastes best to me|what do I enjoy on my plate|what do I eat with joy|which meal do I like most|what do I like eating best|what would I eat every day|which food do I enjoy|what meal makes me happy", "which dish could I eat every day|what do I enjoy eating most"),
    ),
    Relation(
        "allergy", words.food, "you are allergic to {v}", "allergic", ("my allergy", "what I am allergic to"),
        _choices("I am allergic to {v}|I have an allergy to {v}|I can't eat {v}, I am allergic|my allergy is {v}|{v} makes me sick, I am allergic to it|I must not eat {v} because of my allergy|I have to avoid {v}, I am allergic|eating {v} is dangerous for me, I am allergic|the doctor says that I am allergic to {v}|I react to {v}, it is an allergy|I do not tolerate {v}|never give me {v}, I have an allergy", "my body does not tolerate {v}, I am allergic|{v} gives me an allergic reaction"),
        _choices("what am I allergic to|which food am I allergic to|what is my allergy|what can I not eat|what must I not eat|which food gives me an allergy|to what am I allergic|which food must I avoid|what gives me a reaction|what food do I not tolerate|what makes me sick|which allergy did I mention|to which food do I react|what did the doctor say that I am allergic to", "which allergy do I have|what gives me an allergic reaction"),
    ),
    Relation(
        "favourite title", words.title, "your favourite {s} is {v}", "favourite {s}", ("my favourite {s}", "the {s} I like best"),
        _choices("my favourite {s} is {v}|the {s} I like best is {v}|I love the {s} {v}|the best {s} ever is {v}|{v} is my favourite {s}|of every {s} I prefer {v}|the greatest {s} is {v}|the {s} that I recommend is {v}|I recommend the {s} {v} to everybody|my {s} of the year is {v}|there is no better {s} than {v}|I enjoyed {v} most of every {s}|the {s} {v} is the best|as a {s} nothing beats {v}|ask me for a {s} and I say {v}", "no {s} comes close to {v}|if you ask me, {v} is the greatest {s}"),
        _choices("what is my favourite {s}|which {s} do I like best|what's my favourite {s}|which {s} do I love|what is the best {s} for me|which {s} is my favourite|what {s} do I like most|which {s} would I recommend|what {s} do I prefer|which is the greatest {s} for me|which {s} did I call the best|what is the {s} that I love|of every {s}, which do I like|which {s} did I enjoy most|the {s} I like is which", "which {s} do I prefer|what {s} would I recommend to everybody"),
        _TITLED,
    ),
    Relation(
        "hobby", words.hobby, "your hobby is {v}", "hobby", ("my hobby", "what I do in my free time"),
        _choices("my hobby is {v}|in my free time I love {v}|I spend my weekends with {v}|I am really into {v}|my favourite pastime is {v}|{v} is my hobby|my evenings are for {v}|I do a lot of {v}|for fun I do {v}|I go for {v} when I have time|my leisure belongs to {v}|I relax with {v}|as a pastime I have {v}|what I do for fun is {v}|on Sundays I enjoy {v}|my great passion is {v}", "whenever I can I go for {v}|my evenings belong to {v}"),
        _choices("what is my hobby|what do I do in my free time|which hobby do I have|what's my hobby|what do I do on weekends|which pastime do I have|what do I do for fun|how do I spend my free time|what do I do in my leisure|what is my passion|what do I do on Sundays|with what do I relax|which hobby did I mention|what is it that I do in the evening|how do I spend my weekends|what do I enjoy doing", "how do I spend my leisure|what is my pastime"),
    ),
    Relation(
        "instrument", words.instrument, "you play the {v}", "you play", ("the instrument I play", "my instrument"),
        _choices("I play the {v}|I am learning the {v}|my instrument is the {v}|I have played the {v} since school|{v} is the instrument that I play|I am good at the {v}|I make music with the {v}|I began to play the {v}|I practise the {v} every day|in the band I play the {v}|I own a {v} and play it|my music comes from the {v}|I got lessons for the {v}", "I took up the {v}|I make music on the {v}"),
        _choices("which instrument do I play|what instrument do I play|what is my instrument|what do I play|which instrument am I learning|which instrument is mine|what instrument am I learning|on which instrument do I make music|which instrument do I practise|with what do I make music|what do I play in the band|which instrument am I good at|what is the instrument that I play|what instrument did I begin|do I play an instrument, which", "on what do I make music|what instrument am I good at"),
    ),
    Relation(
        "language", words.language, "you are learning {v}", "you are learning", ("the language I am learning", "the language I study"),
        _choices("I am learning {v}|I study {v} in the evening|I am taking {v} lessons|the language I am learning is {v}|I try to learn {v}|I picked up {v}, I am still learning|my course is in {v}|I enrolled to learn {v}|I began to study {v}|at school I am learning {v}|{v} is the language that I study|I practise {v} every day, I want to speak it|I signed up for {v}", "I enrolled in a {v} course|I try to pick up some {v}"),
        _choices("which language am I learning|what language do I study|what language am I learning|which language do I take lessons in|what language do I try to learn|which language do I study|what language is my course in|which language did I begin|which language did I enroll for|what language do I want to speak|in which language do I take a course|what am I learning, which language|what language am I studying|which language do I practise", "in what language did I enroll|which language am I picking up"),
    ),
    Relation(
        "code", words.code, "the code of your {s} is {v}", "code of {s}", ("the code of my {s}", "my {s} code", "the code for my {s}"),
        _choices("the code of my {s} is {v}|my {s} code is {v}|my {s} opens with {v}|the code for my {s} is {v}|I set the code of my {s} to {v}|the PIN of my {s} is {v}|one opens my {s} with {v}|you need {v} to open my {s}|enter {v} and my {s} opens|the combination of my {s} is {v}|the digits of my {s} are {v}|{v} opens my {s}|they changed the code of my {s} to {v}|my {s} has the code {v}|type {v} at my {s}|for my {s} the PIN is {v}|my {s} is locked with {v}", "to open my {s} you enter {v}|my {s} has the combination {v}"),
        _choices("what is the code of my {s}|what's my {s} code|which code opens my {s}|what is the code for my {s}|how do I open my {s}|what is the PIN of my {s}|what code does my {s} have|which digits open my {s}|what is the combination of my {s}|with what code does my {s} open|what do I type at my {s}|which code did I set for my {s}|which PIN does my {s} have|what must one enter at my {s}|my {s}, what is its code|how does my {s} open|what are the digits of my {s}|with which code is my {s} locked|what do I need to open my {s}", "which combination does my {s} have|what do I enter to open my {s}"),
        _LOCKED,
    ),
    Relation(
        "unheard-of code", words.code, "the code of your {s} is {v}", "code of {s}", ("the code of my {s}", "the code for my {s}"),
        _choices("the code of my {s} is {v}|my {s} has the code {v}|the code for my {s} is {v}|my {s} code is {v}|to open my {s} you enter {v}|my {s} opens with {v}|the combination of my {s} is {v}|I set the code of my {s} to {v}|my {s} needs {v}|one enters {v} at my {s}|the digits for my {s} are {v}|the PIN of my {s} is {v}", "{v} is what opens my {s}|for my {s} one needs {v}"),
        _choices("what is the code of my {s}|which code does my {s} have|what is the code for my {s}|what's my {s} code|how do I open my {s}|which combination has my {s}|which code opens my {s}|what is the PIN of my {s}|which digits open my {s}|what does my {s} need to open|what do I enter at my {s}|my {s}, which code does it have|what are the digits of my {s}|with what does my {s} open", "which digits does my {s} need|what opens my {s}"),
        words.made_up_noun,
    ),
    Relation(
        "password", words.password, "the password of your {s} is {v}", "password of {s}", ("the password of my {s}", "my {s} password"),
        _choices("the password of my {s} is {v}|my {s} password is {v}|I changed the password of my {s} to {v}|the password for my {s} is {v}|you log in to my {s} with {v}|{v} is the password of my {s}|to get into my {s} you need {v}|my {s} is locked with {v}|the secret word of my {s} is {v}|type {v} to get into my {s}|I protect my {s} with {v}|one types {v} at my {s}|the new password of my {s} is {v}|whoever opens my {s} types {v}|{v} lets you into my {s}", "my {s} is protected by {v}|whoever needs my {s} types {v}"),
        _choices("what is the password of my {s}|what's my {s} password|which password does my {s} have|what is the password for my {s}|how do I log in to my {s}|with which password do I get into my {s}|what protects my {s}|which word lets me into my {s}|what is the secret word of my {s}|what must I type at my {s}|which password did I set for my {s}|with what is my {s} protected|what do I need to get into my {s}|my {s}, what is its password|what do I type to log in to my {s}|what password has my {s}", "which secret word protects my {s}|what do I type to get into my {s}"),
        _PROTECTED,
    ),
    Relation(
        "date", words.date, "your {s} is on {v}", "date of {s}", ("the date of my {s}", "the day of my {s}"),
        _choices("my {s} is on {v}|my {s} will be on {v}|the date of my {s} is {v}|I have my {s} on {v}|they moved my {s} to {v}|my {s} takes place on {v}|{v} is the day of my {s}|my {s} is planned for {v}|we planned my {s} for {v}|on {v} I have my {s}|my {s} comes on {v}|remember {v}, that is my {s}|the day of my {s} is {v}|come to my {s} on {v}|{v}, that is when my {s} takes place|my {s} was set to {v}|look forward to my {s} on {v}", "mark {v} for my {s}|I look forward to {v}, the day of my {s}"),
        _choices("when is my {s}|on which day is my {s}|what is the date of my {s}|which day is my {s}|what date is my {s} on|when will my {s} be|when does my {s} take place|what day is my {s}|which date has my {s}|what is the day of my {s}|for when is my {s} planned|on what date is my {s}|when do I have my {s}|which date did I tell you for my {s}|my {s}, when is it|to which day was my {s} set|on what day does my {s} come", "for which day is my {s} planned|how long until my {s}, on what date is it"),
        _EVENTS,
    ),
    Relation(
        "time", words.time_of_day, "your {s} is at {v}", "time of {s}", ("the time of my {s}", "what time my {s} is"),
        _choices("my {s} is at {v}|my {s} starts at {v}|the time of my {s} is {v}|my {s} leaves at {v}|I have a {s} at {v}|at {v} I have my {s}|my {s} begins at {v}|{v} is the time of my {s}|my {s} is planned for {v}|be ready at {v} for my {s}|I have to be at my {s} by {v}|the {s} begins at {v}|my {s} goes at {v}|they set my {s} to {v}|by {v} I must be at my {s}", "I must be ready for my {s} by {v}|at {v} my {s} begins"),
        _choices("when is my {s}|at what time is my {s}|what time is my {s}|when does my {s} start|what time does my {s} begin|at which time is my {s}|when does my {s} begin|for when is my {s} planned|at what hour is my {s}|when do I have my {s}|when must I be at my {s}|my {s}, at what time is it|by what time must I be at my {s}|when is the time of my {s}|which hour does my {s} start|to what time was my {s} set", "by when must I be ready for my {s}|at which hour does my {s} begin"),
        _MEETINGS,
    ),
    Relation(
        "number", words.number, "your {s} number is {v}", "{s} number", ("my {s} number", "the number of my {s}"),
        _choices("my {s} number is {v}|the number of my {s} is {v}|I have {s} number {v}|I got {s} {v}|my {s} has the number {v}|{v} is my {s} number|they gave me the {s} number {v}|on my {s} it says {v}|I was given {s} {v}|my {s} is number {v}|the {s} with the number {v} is mine|I am in {s} {v}|for my {s} the number is {v}|number {v} is my {s}|the number on my {s} is {v}", "they gave me {s} {v}|on my {s} stands the number {v}"),
        _choices("what is my {s} number|what's the number of my {s}|which {s} number do I have|which {s} do I have|what number does my {s} have|what number is my {s}|which number was I given for my {s}|what is the number on my {s}|what does it say on my {s}|which {s} is mine|which number has my {s}|my {s}, what number is it|what {s} number did they give me|in which {s} am I|which number did I tell you for my {s}", "which {s} was I given|what number stands on my {s}"),
        _NUMBERED,
    ),
    Relation(
        "whereabouts", words.place, "your {s} is {v}", "where {s} is", ("the place of my {s}", "where my {s} is", "where I put my {s}"),
        _choices("I put my {s} {v}|my {s} is {v}|I left my {s} {v}|I hid my {s} {v}|I keep my {s} {v}|you find my {s} {v}|you can look for my {s} {v}|my {s} are {v}|I placed my {s} {v}|my {s} can be found {v}|look {v} for my {s}|my {s} ended up {v}|I forgot my {s} {v}|the spot for my {s} is {v}|{v} is where my {s} is|I moved my {s}, now it lies {v}|my {s} was put {v}", "my {s} lies {v}|after cleaning up, my {s} ended {v}"),
        _choices("where is my {s}|where did I put my {s}|where did I leave my {s}|where do I keep my {s}|where can I find my {s}|where are my {s}|in which place is my {s}|where did I place my {s}|where must I look for my {s}|where lies my {s}|where did I hide my {s}|my {s}, where is it|what is the spot of my {s}|where have I put my {s}|in what spot did I leave my {s}|where can my {s} be found|where did my {s} end up", "in which spot is my {s}|where should I look for my {s}"),
        _OBJECTS,
    ),
    Relation(
        "somebody's home", words.city, "{s} lives in {v}", "where {s} lives", ("the city {s} lives in", "{s}'s home town", "where {s} lives"),
        _choices("{s} lives in {v}|{s} moved to {v}|my friend {s} lives in {v}|{s} has a flat in {v}|the home of {s} is in {v}|{s} settled in {v}|{s} calls {v} home|one finds {s} in {v}|{s} found a house in {v}|you can visit {s} in {v}|{v} is where {s} lives|{s}'s place is in {v}|these days {s} lives in {v}|the town of {s} is {v}|{s} rents a room in {v}", "{s} settled down in {v}|you find {s} in {v}"),
        _choices("where does {s} live|which city does {s} live in|in which city does {s} live|where is {s} at home|where is the home of {s}|which town does {s} live in|in which place does {s} live|where do I find {s}|what town is the home of {s}|where did {s} move|where can one visit {s}|in what town is {s} at home|{s}, where does she live|where has {s} settled|what place does {s} live in", "which town does {s} call home|in what place can I visit {s}"),
        words.name,
    ),
    Relation(
        "somebody's gift", words.food, "{s} likes {v}", "what {s} likes", ("the food {s} likes", "what {s} likes"),
        _choices("{s} likes {v}|{s} loves {v}|the favourite food of {s} is {v}|{s} always orders {v}|my friend {s} likes {v}|{s} enjoys {v}|{s} wants {v}|{v} makes {s} glad|{s} is fond of {v}|one can please {s} with {v}|for {s} you cook {v}|{s} eats {v} every day|the dish that {s} loves is {v}|{s} is happy about {v}|{s} is a fan of {v}", "{s} is crazy about {v}|you make {s} happy with {v}"),
        _choices("what does {s} like|what does {s} like to eat|which food does {s} love|what is the favourite food of {s}|what does {s} always order|what does {s} enjoy|which dish does {s} love|what pleases {s}|what does {s} eat every day|which food makes {s} glad|what should one cook for {s}|with what is {s} happy|{s}, what does she like|what meal does {s} like|which dish does {s} like", "what makes {s} happy|which dish should I cook for {s}"),
        words.name,
    ),
    Relation(
        "material", words.material, "your {s} is made of {v}", "what {s} is made of", ("the material of my {s}", "what my {s} is made of"),
        _choices("my {s} is made of {v}|the material of my {s} is {v}|I built my {s} out of {v}|I bought a {s} made of {v}|{v} is the material of my {s}|my {s} consists of {v}|they made my {s} from {v}|my {s} was formed out of {v}|I have a {s} of {v}|my {s} is pure {v}|for my {s} they used {v}|I made my {s} from {v}", "they formed my {s} from {v}|pure {v} is what my {s} consists of"),
        _choices("what is my {s} made of|which material is my {s} made of|what is the material of my {s}|what did I build my {s} out of|from what is my {s} made|of what does my {s} consist|what material has my {s}|what did they use for my {s}|out of what was my {s} formed|my {s}, what is it made of|what was my {s} made of|which material did I use for my {s}|what material does my {s} have", "what does my {s} consist of|from what was my {s} formed"),
        words.made_up_noun,
    ),
    Relation(
        "unheard-of colour", words.colour, "the colour of your {s} is {v}", "colour of {s}", ("the colour of my {s}",),
        _choices("the colour of my {s} is {v}|my {s} is {v}|I painted my {s} {v}|I bought a {v} {s}|my {s} has the colour {v}|{v} is the colour of my {s}|my {s} came in {v}|my {s} looks {v}|my {s} is a {v} one|they painted my {s} {v}|I got a {s} in {v}|my {s} shines, it is {v}|I delivered my {s} in the colour {v}", "my {s} shines in {v}|they delivered my {s} in {v}"),
        _choices("what is the colour of my {s}|which colour is my {s}|what colour is my {s}|which colour did I paint my {s}|what colour does my {s} have|in which colour did I paint my {s}|my {s}, what colour is it|what is my {s}'s colour|in which colour came my {s}|which colour has my {s}|what colour did my {s} get|how is my {s} painted, in what colour|which colour does my {s} show|what does my {s} look like, what colour", "in what colour did my {s} come|how does my {s} look, which colour"),
        words.made_up_noun,
    ),
)  # fmt: skip
"""Every kind of fact."""
