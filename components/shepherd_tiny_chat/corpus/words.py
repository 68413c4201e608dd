"""What people talk about: made-up names, codes, dates, things; each in train or in held-out.

A word list is an endless supply that a random generator draws from.  Which
split a drawn value belongs to is decided by a hash of its letters, so that the
two never share one, however many are drawn; words of which there are few, and
whose kind decides how a sentence is built, are divided by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Literal

Split = Literal["train", "heldout"]
Draw = Callable[[Random], str]

HELD_OUT_SHARE = 8
"""One value in so many is held out."""


def is_held_out(value: str) -> bool:
    """Whether training may never see this value; case makes no difference."""
    return hashlib.sha256(value.lower().encode()).digest()[0] % HELD_OUT_SHARE == 0


def drawn(random: Random, split: Split, draw: Draw) -> str:
    """The next value of `draw` that belongs to `split`."""
    while is_held_out(value := draw(random)) != (split == "heldout"):
        pass
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _words(
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sh sk sl sm sn sp st str t th tr v w y z"
)
_VOWELS = _words("a a e e i i o o u u ai ea ee ie oo ou")
_CODAS = _words("b ck d f g k l ll m n nd ng nk nt p r rd rk rn s sh sk st t th v x z")


def _syllable(random: Random, *, closed: float) -> str:
    syllable = random.choice(_ONSETS) + random.choice(_VOWELS)
    return syllable + random.choice(_CODAS) if random.random() < closed else syllable


def _made_up(random: Random) -> str:
    size = random.choice((1, 2, 2, 2, 3))
    return "".join(_syllable(random, closed=0.3) for _ in range(size - 1)) + (
        _syllable(random, closed=0.7)
    )


_REAL_NAMES = _words("""Ada Adam Aisha Alice Amir Anna Anton Ben Bella Bruno Carla Carlos Chen Clara Cleo Daniel Dora
Elena Emil Emma Eva Fatima Felix Finn Frida George Greta Hana Henry Hugo Ida Igor Ines Ivan Jack Jana Jonas Julia
Kai Karim Kate Lars Laura Leo Lina Lucas Lucy Maria Mark Max Maya Mei Mia Milo Nadia Nina Noah Nora Olga Oliver
Omar Oscar Paul Petra Pia Rosa Ruby Sam Sara Simon Sofia Stella Tara Theo Tim Tom Uma Vera Victor Yara Zoe
Luna Rex Biscuit Pepper Shadow Ginger Coco Misty Rocky Buddy Daisy Smokey Snowy Tiger Whiskers Bramble Pickle""")
_REAL_CITIES = _words("""Paris London Berlin Madrid Rome Lisbon Vienna Prague Oslo Helsinki Dublin Athens Cairo Nairobi
Lagos Tokyo Kyoto Seoul Delhi Mumbai Sydney Perth Toronto Boston Chicago Denver Austin Lima Bogota Santiago Bergen
Porto Seville Lyon Ghent Graz Basel Turin Leeds York Krakow Riga Tallinn Izmir Tunis Accra Dakar Hanoi""")
_CITY_ENDINGS = _words("ton ville burg ham ford stad haven mouth field bridge wick dale")
_HUES = _words(
    "red blue green yellow orange purple violet pink brown black white grey silver gold turquoise crimson olive teal maroon navy beige coral indigo lilac mint amber"
)
_SHADES = ("", "", "dark ", "light ", "pale ", "deep ", "bright ", "dusty ")
_TASTES = _words(
    "spicy sweet sour grilled fried baked smoked lemon garlic ginger mushroom tomato cheese pumpkin cherry apple coconut walnut honey pepper onion spinach"
)
_DISHES = _words(
    "noodles soup pie curry salad pancakes dumplings rice stew cake pizza sandwich omelette pudding bread tacos lasagna risotto waffles beans pasta tea juice"
)
_TRADES = _words(
    "baker teacher nurse pilot plumber lawyer painter farmer dentist gardener carpenter chemist librarian translator mechanic engineer tailor florist journalist musician biologist surgeon architect electrician photographer"
)
_TRADE_KINDS = ("", "", "", "night ", "ship ", "school ", "junior ", "senior ", "music ", "marine ", "street ", "hospital ")  # fmt: skip
_HOBBIES = _words(
    "chess tennis football swimming knitting painting hiking climbing fishing sailing dancing running cycling gardening pottery archery fencing skiing surfing rowing juggling baking photography origami astronomy beekeeping"
)
_INSTRUMENTS = _words(
    "piano violin guitar flute drums cello trumpet harp clarinet saxophone banjo accordion ukulele oboe trombone organ mandolin"
)
_LANGUAGES = _words(
    "French Spanish German Italian Turkish Polish Dutch Swedish Greek Arabic Hindi Korean Japanese Swahili Finnish Czech Danish Welsh Thai Urdu Basque Latin Hebrew"
)
_MONTHS = _words(
    "January February March April May June July August September October November December"
)
_ADJECTIVES = _words(
    "old new small big long short blue red green golden silent broken empty hidden quiet lonely secret lost wild frozen dusty round wooden striped crooked little tall heavy"
)
_THINGS = _words(
    "river garden tower mirror lantern bridge forest island letter window candle feather harbour mountain castle copper ribbon button pebble kettle thunder comet meadow anchor saddle marble"
)
_FURNITURE = _words(
    "drawer shelf box basket cupboard sofa table bag lamp chair bed desk cabinet jar bucket carpet wardrobe suitcase mailbox bench"
)
_PLACES = ("in", "under", "behind", "on", "next to", "inside", "near")
_MATERIALS = _words(
    "wood steel glass paper leather copper stone wool silk clay bamboo rubber cotton bronze plastic wax felt iron"
)
_DOINGS = _words(
    "peel hold open clean paint print grind lift cook cool roll fold pack mend sharpen water heat melt press catch turn hang burn count"
)
"""What a thing may be for: "peel" makes a peeler."""
_ENDINGS = _words(
    "er or ing ment let ette scope meter ine ure ella ist ade ium ics oid ula age ful ness ery phone graph"
)


def name(random: Random) -> str:
    """A first name, mostly made up."""
    return random.choice(_REAL_NAMES) if random.random() < 0.3 else _made_up(random).capitalize()


def made_up_noun(random: Random) -> str:
    """A thing that nobody has heard of, of one to three words."""
    kind = random.random()
    if kind < 0.3:
        noun = _two_words(random)
    elif kind < 0.5:
        noun = _compound(random)
    elif kind < 0.65:
        noun = _made_up(random) + random.choice(_ENDINGS)
    else:
        noun = _made_up(random)
    return f"{random.choice(_ADJECTIVES)} {noun}" if random.random() < 0.25 else noun


def unheard_of(random: Random, draw: Draw) -> str:
    """A value of `draw`, or a word that stands in its place though nobody has heard of it.

    Of instruments, trades and the like there are so few that a model would learn them by
    heart instead of reading them.
    """
    if draw in _FEW and random.random() < _UNHEARD_OF_VALUES:
        return made_up_noun(random)
    return draw(random)


def _two_words(random: Random) -> str:
    """Two words for one thing, such as "honey drawer": each alone says something else."""
    first = random.choice((_THINGS, _FURNITURE, _TASTES, _MATERIALS, _HOBBIES, _DOINGS))
    second = random.choice((_THINGS, _FURNITURE, _DISHES, _HOBBIES, _INSTRUMENTS))
    words = [random.choice(first), random.choice(second)]
    if random.random() < 0.5:
        words[random.randrange(2)] = _made_up(random)
    if random.random() < 0.15:
        words[0] += random.choice(("ed", "ing", "er"))
    return " ".join(words)


def _compound(random: Random) -> str:
    """Two words in one, such as "candlepeeler"."""
    first = random.choice(_THINGS) if random.random() < 0.5 else _made_up(random)
    kind = random.random()
    if kind < 0.4:
        return first + random.choice(_DOINGS) + random.choice(("er", "er", "er", "ing"))
    return first + (random.choice(_FURNITURE) if kind < 0.6 else _made_up(random))


def city(random: Random) -> str:
    """A city, mostly made up."""
    if random.random() < 0.3:
        return random.choice(_REAL_CITIES)
    return (_syllable(random, closed=0.7) + random.choice(_CITY_ENDINGS)).capitalize()


def colour(random: Random) -> str:
    """A colour such as "dark green"."""
    return random.choice(_SHADES) + random.choice(_HUES)


def food(random: Random) -> str:
    """A dish such as "lemon pie"."""
    return f"{random.choice(_TASTES)} {random.choice(_DISHES)}"


def job(random: Random) -> str:
    """A profession such as "night nurse"."""
    return random.choice(_TRADE_KINDS) + random.choice(_TRADES)


def hobby(random: Random) -> str:
    """A pastime, at times with a place."""
    return random.choice(_HOBBIES)


def instrument(random: Random) -> str:
    """An instrument."""
    return random.choice(_INSTRUMENTS)


def language(random: Random) -> str:
    """A language."""
    return random.choice(_LANGUAGES)


def date(random: Random) -> str:
    """A day of the year, written in one of three ways."""
    day, month = random.randint(1, 28), random.choice(_MONTHS)
    return random.choice((f"{day} {month}", f"{month} {day}", f"the {_ordinal(day)} of {month}"))


def time_of_day(random: Random) -> str:
    """Hours and minutes."""
    return f"{random.randint(1, 23)}:{random.choice(range(0, 60, 5)):02}"


def code(random: Random) -> str:
    """Digits, at times with letters or a hyphen."""
    digits = "".join(random.choice("0123456789") for _ in range(random.randint(3, 6)))
    letter = random.choice("ABCDEFGHKLMNPRSTVXZ")
    return random.choice((digits, digits, digits, f"{letter}{digits}", f"{digits[:2]}-{digits[2:]}", f"{letter}{digits[0]}-{digits[1:]}"))  # fmt: skip


def number(random: Random) -> str:
    """A number of two to four digits."""
    return str(random.randint(11, 9999 if random.random() < 0.3 else 199))


def password(random: Random) -> str:
    """Two words in one."""
    first = random.choice(_ADJECTIVES)
    second = random.choice(_THINGS) if random.random() < 0.5 else _made_up(random)
    return f"{first}-{second}"


def title(random: Random) -> str:
    """What a book or a song may be called."""
    kind = random.random()
    adjective, thing = random.choice(_ADJECTIVES).capitalize(), random.choice(_THINGS).capitalize()
    if kind < 0.6:
        return f"The {adjective} {thing}"
    if kind < 0.8:
        return f"{adjective} {_made_up(random).capitalize()}"
    return f"{thing} of {_made_up(random).capitalize()}"


def place(random: Random) -> str:
    """Where a thing lies."""
    return f"{random.choice(_PLACES)} the {random.choice(_ADJECTIVES)} {random.choice(_FURNITURE)}"


def material(random: Random) -> str:
    """What a thing is made of."""
    return random.choice(_MATERIALS)


def _ordinal(day: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{'th' if 11 <= day <= 13 else ending}"


_FEW = frozenset((instrument, hobby, language, material, job))
_UNHEARD_OF_VALUES = 0.4
"""Of the training's values of those kinds."""
