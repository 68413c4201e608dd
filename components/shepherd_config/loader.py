"""Where values come from: flag, then environment, then file, then default.

Every process understands three flags beside its own: `--config FILE`,
`--check` (print the resolved configuration with its sources, load nothing) and
`--dump-config-to FILE`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from shepherd_config.options import ENV_PREFIX, Option, OptionError, convert, nearest, options_of

log = logging.getLogger(__name__)

C = TypeVar("C")
CONFIG_ENV = ENV_PREFIX + "CONFIG"


@dataclass(frozen=True, slots=True)
class Resolved(Generic[C]):
    """A configuration, and who set each of its values."""

    config: C
    sources: dict[str, str]
    """Field name to "flag --x", "variable X", "file F" or "default"."""
    check: bool
    """Whether `--check` was given: print `describe()` and end."""

    def describe(self) -> str:
        """One line per option: flag, value, source; secrets are masked."""
        rows = [(o.flag, _shown(o, self.config), self.sources[o.name]) for o in _options(self)]
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{f:<{wide[0]}}  {v:<{wide[1]}}  {s}" for f, v, s in rows)

    def dump(self, path: Path) -> None:
        """Write values and sources as JSON; secrets are masked."""
        entries = {
            o.name: {"value": _plain(o, self.config), "source": self.sources[o.name]}
            for o in _options(self)
        }
        path.write_text(json.dumps(entries, indent=2) + "\n")


def load(
    config: type[C],
    *,
    prog: str,
    section: str,
    description: str = "",
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved[C]:
    """Resolve a configuration dataclass from the command line, environment and file.

    Raises:
        OptionError: an unknown flag or key, or a value that does not fit.
        SystemExit: `--help` was asked for.
    """
    environ = os.environ if environ is None else environ
    options = options_of(config)
    flags, extra = _parse_flags(options, prog, description, sys.argv[1:] if argv is None else argv)
    file_path = flags.pop("config", None) or environ.get(CONFIG_ENV)
    from_file = _read_file(Path(file_path), section, options) if file_path else {}
    check, dump_to = extra
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, option in options.items():
        word, source, spelled = _first(option, flags, environ, from_file, str(file_path))
        sources[name] = source
        if source != "default":
            values[name] = convert(option, word, spelled)
        elif option.default is dataclasses.MISSING:
            raise OptionError(option.flag, None, f"a value (or {option.env[0]}): {option.help}")
    _warn_of_near_misses(options, environ)
    resolved = Resolved(config(**values), sources, check)
    if dump_to:
        resolved.dump(Path(dump_to))
    return resolved


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(self.prog, message, "a command line as `--help` shows it")


def _parse_flags(
    options: Mapping[str, Option], prog: str, description: str, argv: Sequence[str]
) -> tuple[dict[str, Any], tuple[bool, str | None]]:
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    general = parser.add_argument_group("configuration")
    general.add_argument("--config", metavar="FILE", help=f"TOML file [env {CONFIG_ENV}]")
    general.add_argument("--check", action="store_true", help="print every value with its source")
    general.add_argument("--dump-config-to", metavar="FILE", help="write the configuration as JSON")
    groups: dict[str, Any] = {}
    for option in options.values():
        group = groups.get(option.group) or parser.add_argument_group(option.group)
        groups[option.group] = group
        _add_flag(group, option)
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        spellings = [s for o in options.values() for s in (o.flag, *o.aliases)]
        word = unknown[0].partition("=")[0]
        raise OptionError(prog, unknown[0], "a known flag", nearest(word, spellings))
    found: dict[str, Any] = {
        name: ",".join(value) if isinstance(value, list) else value  # a flag given several times
        for name, value in vars(known).items()
        if value is not None
    }
    return found, (found.pop("check"), found.pop("dump_config_to", None))


def _add_flag(group: Any, option: Option) -> None:
    shown = "" if option.default is dataclasses.MISSING else f", default {option.default}"
    choices = f" One of {', '.join(option.choices)}." if option.choices else ""
    text = f"{option.help}{choices} [env {', '.join(option.env)}{shown}]".replace("%", "%%")
    names = (option.flag, *option.aliases)
    if option.kind is bool:
        action = argparse.BooleanOptionalAction
        group.add_argument(*names, dest=option.name, default=None, action=action, help=text)
    else:
        metavar = option.name.upper()
        repeats = "append" if option.kind is tuple else "store"
        group.add_argument(
            *names, dest=option.name, default=None, metavar=metavar, action=repeats, help=text
        )


def _read_file(path: Path, section: str, options: Mapping[str, Option]) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text()).get(section, {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError("--config", str(path), f"a readable TOML file ({error})") from None
    if not isinstance(table, dict):
        raise OptionError(f"{path} [{section}]", table, "a table")
    by_key = {key.replace("-", "_"): value for key, value in table.items()}
    for key in by_key:
        if key not in options:
            raise OptionError(f"{path} [{section}]", key, "a known key", nearest(key, options))
    return by_key


def _first(
    option: Option,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    from_file: Mapping[str, Any],
    path: str,
) -> tuple[Any, str, str]:
    """Value, source, and the name to blame, of the strongest source that speaks."""
    if option.name in flags:
        return flags[option.name], f"flag {option.flag}", option.flag
    for variable in option.env:
        if environ.get(variable):
            return environ[variable], f"variable {variable}", variable
    if option.name in from_file:
        return from_file[option.name], f"file {path}", f"{path} {option.name}"
    return None, "default", option.flag


def _warn_of_near_misses(options: Mapping[str, Option], environ: Mapping[str, str]) -> None:
    known = {variable for option in options.values() for variable in option.env} | {CONFIG_ENV}
    ours = [each.removeprefix(ENV_PREFIX) for each in known if each.startswith(ENV_PREFIX)]
    for variable in environ:
        if variable.startswith(ENV_PREFIX) and variable not in known:
            hint = nearest(variable.removeprefix(ENV_PREFIX), ours, before=ENV_PREFIX)
            if hint:
                log.warning("%s is not a variable of this process%s", variable, hint)


def _options(resolved: Resolved[Any]) -> list[Option]:
    return list(options_of(type(resolved.config)).values())


def _plain(option: Option, config: object) -> Any:
    value = getattr(config, option.name)
    if option.secret and value:
        return "***"
    return list(value) if isinstance(value, tuple) else value


def _shown(option: Option, config: object) -> str:
    value = _plain(option, config)
    return ",".join(value) if isinstance(value, list) else str(value)
