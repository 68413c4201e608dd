"""The `shepherd` commands and their options, as typer knows them, in tables.

What many commands of a group have in just the same way is told once.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.main import get_command

from shepherd_cli.configuration.markdown import code, table, text

_HEAD = ("option", "value", "default", "")
_MANY = 3
"""From so many commands on, what they share is told once."""
_TYPES = {int: "an integer", float: "a number", str: "text", Path: "a path"}


@dataclass(frozen=True, slots=True)
class _Row:
    names: str
    value: str
    default: str
    help: str


def command_sections(app: typer.Typer, name: str) -> str:
    """One section for a group and each group within it."""
    return "\n".join(_group(get_command(app), name))


def _group(group: Any, path: str) -> Iterator[str]:
    """A command or group is typer's own kind of click's, which has no public type."""
    commands = {each: found for each, found in group.commands.items() if not found.hidden}
    single = {n: c for n, c in commands.items() if not hasattr(c, "commands")}
    rows = {name: _rows(command) for name, command in single.items()}
    counts = Counter(row for found in rows.values() for row in found)
    shared = [row for row, count in counts.items() if count >= _MANY]
    yield f"### {path}\n\n{text(_first_line(group.help))}\n"
    yield from _table(_rows(group))
    if shared:
        yield "Shared:\n"
        yield from _table(shared)
    for name, command in single.items():
        has = ", ".join(_short(row) for row in rows[name] if row in shared)
        yield f"#### {path} {name}\n\n{text(_first_line(command.help))}\n"
        yield from _table([row for row in rows[name] if row not in shared])
        if has:
            yield f"And {has}.\n"
    for name, command in commands.items():
        if name not in single:
            yield from _group(command, f"{path} {name}")


def _table(rows: Sequence[_Row]) -> Iterator[str]:
    if rows:
        yield table(_HEAD, ((row.names, row.value, row.default, row.help) for row in rows))


def _short(row: _Row) -> str:
    return row.names.partition("<br>")[0].partition(",")[0]


def _rows(command: Any) -> list[_Row]:
    kinds = {}
    if command.callback is not None:
        signature = inspect.signature(command.callback, eval_str=True)
        kinds = {name: each.annotation for name, each in signature.parameters.items()}
    return [
        _row(each, kinds.get(each.name))
        for each in command.params
        if not getattr(each, "hidden", False) and each.name in kinds
    ]


def _row(parameter: Any, kind: Any) -> _Row:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if is_argument else [*parameter.opts]
    variables = parameter.envvar or ()
    variables = [variables] if isinstance(variables, str) else variables
    spelled = "<br>".join([", ".join(map(code, names)), *map(code, variables)])
    return _Row(spelled, _value(parameter, kind), _default(parameter), text(parameter.help or ""))


def _value(parameter: Any, kind: Any) -> str:
    plain, repeated = _plain(kind)
    if plain is bool:
        return "a switch"
    if isinstance(plain, type) and issubclass(plain, StrEnum):
        words = ", ".join(code(member.value) for member in plain)
    else:
        words = _TYPES.get(plain, "text") + _range(parameter)
    return words + (", repeatable" if repeated else "")


def _plain(kind: Any) -> tuple[Any, bool]:
    """The type of one value, without what typer and None add to it; whether there may be several."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return _plain(next(part for part in get_args(kind) if part is not NoneType))
    if get_origin(kind) is list:
        return get_args(kind)[0], True
    return kind, False


def _range(parameter: Any) -> str:
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    words = [f">= {low:g}"] if low is not None else []
    words += [f"&lt;= {high:g}"] if high is not None else []
    return " " + " and ".join(words) if words else ""


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    value = parameter.default
    if value is None or isinstance(value, bool):
        return ""
    return code(str(value))


def _first_line(words: str | None) -> str:
    return (words or "").strip().partition("\n\n")[0]
