"""docs/configuration.md says what the code heeds, and every option says enough of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from shepherd_cli.__main__ import app
from shepherd_cli.configuration.commands import command_sections
from shepherd_cli.configuration.options import Process, process_section
from shepherd_cli.configuration.page import PROCESSES, page
from shepherd_config import OptionError, load, option
from shepherd_config.options import Option, options_of

ROOT = Path(__file__).parents[3]
ALL = [
    pytest.param(each, id=f"{process.section}-{each.name}")
    for process in PROCESSES
    for each in options_of(process.config).values()
]


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_OTHER_PROGRAMS = {
    *("--router-mode", "--migration-limit"),  # Dynamo's frontend
    *("--section", "--dataset", "--shape", "--rounds", "--workers", "--sessions", "--tenants"),
    *("--tensor-parallel", "--images", "--postgres-ca"),  # scripts
    *("--checkpoint_dir", "--output_dir", "--use_paged_context_fmha", "--max_batch_size"),
    *("--shm-size", "--ulimit", "--from-file", "--all", "--schema", "--retry"),
    *("--no-deps", "--require-hashes"),
    "--rol",  # a mistake that a page shows
}
SECRETS = {"SHEPHERD_MEMORY_KEY"}
"""They have a variable but no flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    port: int | None = option(
        "Port of it.", default=None, minimum=0, maximum=9, unit="port", aliases=("--old",)
    )
    wait_s: float = option("Time to wait.", default=1.5, env=("OTHER_WAIT",), only="--port 1")
    mode: str = option(
        "How, a|b.", choices=("a", "b"), synonyms={"alpha": "a"}, default="a", group="other"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Later(Config):
    port: int = option("Another port.", default=1, unit="port")


def test_the_page_is_what_the_code_makes() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == page(), "run `make configuration`"


def test_a_row_says_flag_variable_key_value_unit_default_and_meaning() -> None:
    section = process_section(Process("Demo", "demo", "demo", Config), {})

    assert section == (
        "## Demo\n\n`demo`, `[demo]` in a file.\n\n"
        "### Demo: options\n\n"
        "| flag, variable, key | value | default |  |\n|---|---|---|---|\n"
        "| `--port`, `--old`<br>`SHEPHERD_PORT`<br>`port` | an integer >= 0 and &lt;= 9 or none; port "
        "| none | Port of it. |\n"
        "| `--wait-s`<br>`SHEPHERD_WAIT_S`<br>`OTHER_WAIT`<br>`wait_s` | a number; seconds "
        "| `1.5` | Time to wait. *Only with --port 1.* |\n\n"
        "### Demo: other\n\n"
        "| flag, variable, key | value | default |  |\n|---|---|---|---|\n"
        "| `--mode`<br>`SHEPHERD_MODE`<br>`mode` | `a`, `b`; `alpha` for `a` "
        "| `a` | How, a\\|b. |\n"
    )


def test_what_an_earlier_process_has_in_just_the_same_way_is_named_only() -> None:
    told: dict[str, tuple[str, Option]] = {}
    process_section(Process("Demo", "demo", "demo", Config), told)

    section = process_section(Process("Later", "later", "later", Later), told)

    assert "| `--port`<br>`SHEPHERD_PORT`<br>`port` | an integer; port | `1` |" in section
    assert section.endswith("As those of the demo: `--wait-s`, `--mode`.\n")
    assert "Time to wait" not in section


def test_every_process_reads_the_table_that_the_page_names(tmp_path: Path) -> None:
    for process in PROCESSES:
        file = tmp_path / f"{process.section}.toml"
        file.write_text(f"[{process.section}]\nno_such_key = 1\n")
        with pytest.raises(OptionError, match="no_such_key"):
            load(
                process.config,
                prog=process.command,
                section=process.section,
                argv=["--config", str(file)],
                environ={},
            )


@pytest.mark.parametrize("each", ALL)
def test_an_option_says_in_one_sentence_what_it_is(each: Option) -> None:
    assert re.fullmatch(r"(?:[^.\n]|\.(?! [A-Z]))+\.", each.help), each.help


@pytest.mark.parametrize("each", ALL)
def test_a_number_has_a_unit_and_nothing_else_has(each: Option) -> None:
    assert bool(each.unit) == (each.kind in {int, float})


@pytest.mark.parametrize("each", ALL)
def test_what_an_option_needs_beside_it_exists(each: Option) -> None:
    for flag in re.findall(r"--[a-z-]+", each.only):
        assert flag in {other.values[0].flag for other in ALL}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_and_variable_that_a_page_names_exists(page: Path) -> None:
    known = set(
        re.findall(r"`(--[\w-]+|SHEPHERD_\w+)[ `]", (ROOT / "docs/configuration.md").read_text())
    )
    text = page.read_text()
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    variables = set(re.findall(r"\bSHEPHERD_(?!BENCH_|TEST_)[A-Z_]*[A-Z]\b", text))

    assert flags - OF_OTHER_PROGRAMS - known == set()
    assert variables - SECRETS - known == set()


def test_what_torch_alone_heeds_is_not_read_for_tensorrt_llm() -> None:
    folder = ROOT / "components/shepherd_worker/engine/trtllm"
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    options = options_of(PROCESSES[0].config).values()
    torch_alone = [each.name for each in options if "--engine torch" in each.only]

    assert len(torch_alone) > 5
    assert [name for name in torch_alone if re.search(rf"\.{name}\b", sources)] == []


def test_every_option_of_a_command_says_what_it_is() -> None:
    rows = [line for line in command_sections(app, "shepherd").splitlines() if line[:3] == "| `"]

    assert len(rows) > 50
    assert [row for row in rows if row.split(" | ")[3].strip(" |") == ""] == []
