"""What a user sees of options: precedence, sources, and errors that help."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_config import OptionError, Resolved, load, option
from shepherd_config.options import options_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    name: str = option("A name.", aliases=("--old-name",))
    port: int = option("A port.", default=80, minimum=0, maximum=65535, env=("OTHER_PORT",))
    ratio: float = option("A ratio.", default=0.5, minimum=0, maximum=1)
    colour: Colour = option("A colour.", default=Colour.RED, synonyms={"azure": "blue"})
    mode: Literal["fast", "slow"] = option("A mode.", default="fast")
    loud: bool = option("Loud or not.", default=False)
    limit: int | None = option("A limit.", default=None, minimum=1)
    parts: tuple[str, ...] = option("Parts.", default=("a", "b"))
    password: str = option("A password.", default="", secret=True)


def resolve(*argv: str, **environ: str) -> Resolved[Config]:
    return load(Config, prog="prog", section="demo", argv=argv, environ=environ)


def test_a_flag_beats_the_variable_which_beats_the_file_which_beats_the_default(
    tmp_path: Path,
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[demo]\nname = "file"\nport = 1\nratio = 0.1\nmode = "slow"\n')

    resolved = resolve(
        *("--config", str(file), "--port", "3"), SHEPHERD_PORT="2", SHEPHERD_RATIO="0.2"
    )

    config = resolved.config
    assert (config.port, config.ratio, config.mode, config.loud) == (3, 0.2, "slow", False)
    assert resolved.sources["port"] == "flag --port"
    assert resolved.sources["ratio"] == "variable SHEPHERD_RATIO"
    assert resolved.sources["mode"] == f"file {file}"
    assert resolved.sources["loud"] == "default"


def test_our_variable_beats_the_one_borrowed_from_dynamo() -> None:
    assert resolve("--name", "x", OTHER_PORT="7").config.port == 7
    assert resolve("--name", "x", OTHER_PORT="7", SHEPHERD_PORT="8").config.port == 8


def test_an_alias_and_a_synonym_mean_the_same_as_the_usual_words() -> None:
    config = resolve("--old-name", "x", "--colour", "azure").config

    assert config.name == "x"
    assert config.colour is Colour.BLUE


def test_booleans_optionals_and_lists_are_read_from_flags_and_variables() -> None:
    config = resolve("--name", "x", "--loud", "--limit", "none", SHEPHERD_PARTS="c, d").config
    assert (config.loud, config.limit, config.parts) == (True, None, ("c", "d"))

    config = resolve("--name", "x", "--no-loud", SHEPHERD_LOUD="true", SHEPHERD_LIMIT="5").config
    assert (config.loud, config.limit) == (False, 5)


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--colour", "rad"], {}, "--colour: 'rad' is not valid: expected one of red, blue; did you mean 'red'?"),
        ([], {"SHEPHERD_MODE": "fats"}, "SHEPHERD_MODE: 'fats' is not valid: expected one of fast, slow; did you mean 'fast'?"),
        (["--port", "many"], {}, "--port: 'many' is not valid: expected an integer >= 0 and <= 65535"),
        ([], {"OTHER_PORT": "70000"}, "OTHER_PORT: '70000' is not valid: expected an integer >= 0 and <= 65535"),
        (["--ratio", "nan"], {}, "--ratio: 'nan' is not valid: expected a number >= 0 and <= 1"),
        ([], {"SHEPHERD_LOUD": "treu"}, "SHEPHERD_LOUD: 'treu' is not valid: expected true or false"),
        (["--limit", "0"], {}, "--limit: '0' is not valid: expected an integer >= 1 or none"),
        (["--prot", "1"], {}, "prog: '--prot' is not valid: expected a known flag; did you mean '--port'?"),
        (["--port"], {}, "prog: 'argument --port: expected one argument' is not valid: expected a command line as `--help` shows it"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_that_names_it_and_what_was_expected(
    argv: list[str], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(OptionError) as error:
        resolve("--name", "x", *argv, **environ)

    assert str(error.value) == message
    assert error.value.exit_code == 2


def test_a_missing_value_says_how_to_give_it() -> None:
    with pytest.raises(
        OptionError,
        match=r"--name: None is not valid: expected a value \(or SHEPHERD_NAME\): A name\.",
    ):
        resolve()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[demo]\nprot = 1\n", r"\[demo\]: 'prot' is not valid: expected a known key; did you mean 'port'\?"),
        ("[demo]\nport = true\n", r"port: True is not valid: expected an integer"),
        ("[demo\n", r"expected a readable TOML file"),
        ("demo = 1\n", r"expected a table"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_an_error_that_names_the_key(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)

    with pytest.raises(OptionError, match=message):
        resolve("--name", "x", "--config", str(file))


def test_the_description_shows_every_value_with_its_source_and_masks_secrets(
    tmp_path: Path,
) -> None:
    resolved = resolve("--check", "--name", "x", SHEPHERD_PASSWORD="hunter2")

    rows = {line.split()[0]: line.split()[1:] for line in resolved.describe().splitlines()}
    assert resolved.check
    assert rows["--name"] == ["x", "flag", "--name"]
    assert rows["--parts"] == ["a,b", "default"]
    assert rows["--password"] == ["***", "variable", "SHEPHERD_PASSWORD"]

    resolved.dump(tmp_path / "dump.json")
    dumped = json.loads((tmp_path / "dump.json").read_text())
    assert dumped["password"]["value"] == "***"
    assert dumped["port"] == {"value": 80, "source": "default"}


def test_a_variable_that_is_nearly_ours_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolve("--name", "x", SHEPHERD_PROT="1", SHEPHERD_ENTIRELY_DIFFERENT="1")

    assert caplog.messages == [
        "SHEPHERD_PROT is not a variable of this process; did you mean 'SHEPHERD_PORT'?"
    ]


@given(st.integers(0, 65535), st.floats(0, 1), st.sampled_from(["fast", "slow"]))
def test_a_value_means_the_same_from_a_flag_and_from_a_variable(
    port: int, ratio: float, mode: str
) -> None:
    flags = resolve("--name", "x", f"--port={port}", f"--ratio={ratio}", f"--mode={mode}")
    variables = resolve(
        *("--name", "x"), SHEPHERD_PORT=str(port), SHEPHERD_RATIO=str(ratio), SHEPHERD_MODE=mode
    )

    assert flags.config == variables.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    shared: int = option("Shared.", default=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own(Shared):
    own: int = option("Own.", default=2)


def test_a_class_s_own_options_come_before_those_that_it_inherits() -> None:
    resolved = load(Own, prog="prog", section="demo", argv=["--shared", "7"], environ={})

    assert list(options_of(Own)) == ["own", "shared"]
    assert (resolved.config.own, resolved.config.shared) == (2, 7)


@dataclass(frozen=True, kw_only=True)
class Doors:
    host: str = option("A host.", default="127.0.0.1")
    door: int = option("A door.", default=0, minimum=0, maximum=9)


@dataclass(frozen=True, slots=True, kw_only=True)
class House(Doors):
    rooms: int = option("Rooms.", default=1)
    door: int = 8


def test_a_class_gives_an_inherited_option_another_default_and_leaves_it_what_it_is() -> None:
    options = options_of(House)
    resolved = load(House, prog="prog", section="demo", argv=[], environ={})

    assert list(options) == ["rooms", "host", "door"]
    assert (options["door"].help, options["door"].default) == ("A door.", 8)
    assert resolved.config.door == 8
    assert load(Doors, prog="prog", section="demo", argv=[], environ={}).config.door == 0
    with pytest.raises(OptionError, match="--door: '10' is not valid"):
        load(House, prog="prog", section="demo", argv=["--door", "10"], environ={})
