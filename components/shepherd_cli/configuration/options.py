"""The options of a process, as `shepherd_config` knows them, in tables.

An option that an earlier process has in just the same way is named, not repeated.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import groupby

from shepherd_cli.configuration.markdown import code, table, text
from shepherd_config.options import Option, options_of

_HEAD = ("flag, variable, key", "value", "default", "")


@dataclass(frozen=True, slots=True)
class Process:
    """What has a configuration dataclass of its own."""

    title: str
    command: str
    section: str
    """Its table in a configuration file."""
    config: type


def process_section(process: Process, told: dict[str, tuple[str, Option]]) -> str:
    """Everything about one process; adds to `told`, flag by flag, what is told here."""
    options = options_of(process.config).values()
    known = [o for o in options if _is_told(o, told)]
    parts = [f"## {process.title}\n\n`{process.command}`, `[{process.section}]` in a file.\n"]
    new = sorted((o for o in options if o not in known), key=lambda o: _rank(o, process))
    for group, members in groupby(new, key=lambda o: o.group):
        parts += [f"### {process.title}: {group}\n", table(_HEAD, map(_row, members))]
    for title in dict.fromkeys(told[o.flag][0] for o in known):
        flags = ", ".join(code(o.flag) for o in known if told[o.flag][0] == title)
        parts.append(f"As those of the {title.lower()}: {flags}.\n")
    for option in new:
        told.setdefault(option.flag, (process.title, option))
    return "\n".join(parts)


def _is_told(option: Option, told: dict[str, tuple[str, Option]]) -> bool:
    return option.flag in told and told[option.flag][1] == option


def _rank(option: Option, process: Process) -> int:
    """Where its group was first declared."""
    groups = [each.group for each in options_of(process.config).values()]
    return groups.index(option.group)


def _row(option: Option) -> tuple[str, str, str, str]:
    names = [", ".join(map(code, (option.flag, *option.aliases))), *map(code, option.env)]
    meaning = text(option.help)
    if option.only:
        meaning += f" *Only with {option.only}.*"
    return "<br>".join([*names, code(option.name)]), _value(option), _default(option), meaning


def _value(option: Option) -> str:
    allowed = ", ".join(map(code, option.choices)) or text(option.expected)
    synonyms = ", ".join(f"{code(word)} for {code(to)}" for word, to in option.synonyms.items())
    return "; ".join(part for part in (allowed, option.unit, synonyms) if part)


def _default(option: Option) -> str:
    default = option.default
    if default is dataclasses.MISSING:
        return "must be given"
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return code(",".join(default) if isinstance(default, tuple) else str(default))
