"""What an option is, and how a word becomes its value.

Knows nothing of where the word came from; `loader.py` asks flags, environment
and file in turn and passes the origin along for the error message.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

ENV_PREFIX: Final = "SHEPHERD_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_EXPECTED = {str: "text", int: "an integer", float: "a number", bool: "true or false"}


class OptionError(Exception):
    """A wrong option; ends the process with exit code 2 before anything is loaded."""

    exit_code: Final = 2

    def __init__(self, name: str, value: object, expected: str, hint: str = "") -> None:
        self.name = name
        self.value = value
        self.expected = expected
        super().__init__(f"{name}: {value!r} is not valid: expected {expected}{hint}")


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration behind one field."""

    name: str
    """The field's name; the flag has dashes for underscores."""
    kind: type
    """str, int, float, bool or tuple (of str, separated by commas)."""
    help: str
    default: Any
    """`dataclasses.MISSING` where a value must be given."""
    optional: bool
    """Whether None is a value, written as "none"."""
    choices: tuple[str, ...]
    synonyms: Mapping[str, str]
    """Other words for a choice, as other programs spell it."""
    enum: type[StrEnum] | None
    aliases: tuple[str, ...]
    """Further flags, with their dashes."""
    env: tuple[str, ...]
    """Environment variables, the first one ours."""
    minimum: float
    maximum: float
    group: str
    secret: bool
    unit: str
    """What a number counts, such as "bytes"; empty where it counts nothing."""
    only: str
    """The other options with which alone it is heeded, such as "--engine torch"."""

    @property
    def flag(self) -> str:
        """The flag's usual spelling."""
        return "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What a value must look like, for an error message."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        text = _EXPECTED.get(self.kind, "words separated by commas")
        if self.minimum > -math.inf:
            text += f" >= {self.minimum:g}"
        if self.maximum < math.inf:
            text += f"{' and' if self.minimum > -math.inf else ''} <= {self.maximum:g}"
        return text + (" or none" if self.optional else "")


def option(
    text: str,
    *,
    default: Any = dataclasses.MISSING,
    choices: Iterable[str] = (),
    synonyms: Mapping[str, str] | None = None,
    aliases: Iterable[str] = (),
    env: Iterable[str] = (),
    minimum: float = -math.inf,
    maximum: float = math.inf,
    group: str = "options",
    secret: bool = False,
    unit: str = "",
    only: str = "",
) -> Any:
    """Declare a field of a configuration dataclass; `text` is its help, one sentence.

    A number has a `unit`; a field whose name ends in `_s` is in seconds without saying so.
    """
    declared = {
        "help": text,
        "choices": tuple(choices),
        "synonyms": dict(synonyms or {}),
        "aliases": tuple(aliases),
        "env": tuple(env),
        "minimum": minimum,
        "maximum": maximum,
        "group": group,
        "secret": secret,
        "unit": unit,
        "only": only,
    }
    return dataclasses.field(default=default, metadata={"option": declared})


def options_of(config: type) -> dict[str, Option]:
    """The options of a configuration dataclass by field name, in order of declaration.

    A class's own options come before those that it inherits.  A class gives an inherited
    option another default by naming it again, as `http_port: int = 8080`.
    """
    hints = get_type_hints(config)
    found = [(_declaration(config, field.name), field) for field in dataclasses.fields(config)]
    declared = [(*declaration, field) for declaration, field in found if declaration is not None]
    declared.sort(key=lambda each: each[0])
    return {
        field.name: _option(field, declaration, hints[field.name])
        for _, declaration, field in declared
    }


def _declaration(config: type, name: str) -> tuple[int, Mapping[str, Any]] | None:
    """What was said of an option, and how far up the class that said it is."""
    for distance, base in enumerate(config.__mro__):
        if name in vars(base).get("__annotations__", {}):
            field = vars(base)["__dataclass_fields__"][name]
            if "option" in field.metadata:
                return distance, field.metadata["option"]
    return None


def _option(field: dataclasses.Field[Any], declaration: Mapping[str, Any], hint: Any) -> Option:
    declared = dict(declaration)
    kind, optional = _without_none(hint)
    enum: type[StrEnum] | None = None
    if get_origin(kind) is Literal:
        declared["choices"], kind = get_args(kind), str
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        enum, declared["choices"], kind = kind, tuple(member.value for member in kind), str
    kind = get_origin(kind) or kind
    if kind not in {str, int, float, bool, tuple}:
        raise TypeError(f"{field.name}: an option cannot be of type {hint}")
    declared["env"] = (ENV_PREFIX + field.name.upper(), *declared["env"])
    declared["unit"] = declared["unit"] or ("seconds" if field.name.endswith("_s") else "")
    return Option(
        name=field.name, kind=kind, default=field.default, optional=optional, enum=enum, **declared
    )


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in {Union, types.UnionType}:
        rest = [part for part in get_args(hint) if part is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return hint, False


def convert(option: Option, value: object, spelled: str) -> Any:
    """The typed value of a word from flag or environment, or of a value from a file.

    `spelled` is the flag, variable or key as the user wrote it.

    Raises:
        OptionError: the value is not of the option's type, range or choices.
    """
    if option.optional and isinstance(value, str) and value.lower() == "none":
        return None
    try:
        typed = _TYPES[option.kind](value)
    except ValueError:
        raise OptionError(spelled, value, option.expected) from None
    typed = option.synonyms.get(typed, typed) if option.synonyms else typed
    if option.choices and typed not in option.choices:
        hint = nearest(str(value), option.choices)
        raise OptionError(spelled, value, option.expected, hint)
    if isinstance(typed, int | float) and not option.minimum <= typed <= option.maximum:
        raise OptionError(spelled, value, option.expected)
    return option.enum(typed) if option.enum else typed


def nearest(word: str, candidates: Iterable[str], *, before: str = "") -> str:
    """A hint such as "; did you mean 'prefill'?", or nothing; `before` stands before every name."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f"; did you mean {before + matches[0]!r}?" if matches else ""


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004  convert() turns it into the one error users see
    return value


def _as_int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError  # noqa: TRY004  as above
    return int(value)


def _as_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError  # noqa: TRY004  as above
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _as_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = _as_text(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _as_words(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_as_text(item) for item in value)
    return tuple(word.strip() for word in _as_text(value).split(",") if word.strip())


_TYPES: Final[dict[type, Any]] = {
    str: _as_text,
    int: _as_int,
    float: _as_float,
    bool: _as_bool,
    tuple: _as_words,
}
