"""When two spellings of a fact's key mean the same.

A model that stored `favouriteColour` asks for `favourite_colour`, "Favourite
colour" or `favouritecolour`.  A key is kept as it was spelt; where a look-up
finds no such spelling, keys that fold alike are meant.
"""

from __future__ import annotations

import re
import unicodedata

_SEPARATORS = re.compile(r"[\s_.\-:/]+")


def fold_key(key: str) -> str:
    """The key without case and separators; the key itself where nothing is left."""
    folded = _SEPARATORS.sub("", unicodedata.normalize("NFKC", key).casefold())
    return folded or key
