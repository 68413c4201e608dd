"""The recipes of our images, as far as they can be judged without a registry."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from k8s_validator import command_lines
from k8s_validator.overlays import OVERLAYS, rendered
from k8s_validator.pods import pods_of

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy").glob("Containerfile.*"), key=str)

every_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """Name and argument of each, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", file.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


@every_file
def test_everything_that_is_copied_is_there_and_not_ignored(file: Path) -> None:
    ignore = (ROOT / ".containerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = [
        word
        for name, argument in instructions(file)
        if name == "COPY" and "--from=" not in argument
        for word in argument.split()[:-1]
    ]

    assert copied
    assert [word for word in copied if not (ROOT / word).exists()] == []
    assert set(copied) <= kept


@every_file
def test_stages_exist_and_bases_are_versions(file: Path) -> None:
    bases = [argument.split() for name, argument in instructions(file) if name == "FROM"]
    stages = {words[2] for words in bases if len(words) == 3}
    used = {s for _, argument in instructions(file) for s in re.findall(r"--from=(\w+)", argument)}

    assert len(bases) == 2
    assert used == stages
    assert all(re.fullmatch(r"\S+/\S+:[0-9]\S+", words[0]) for words in bases)


@every_file
def test_an_image_runs_as_nobody_in_particular(file: Path) -> None:
    users = [argument for name, argument in instructions(file) if name == "USER"]

    assert users[-1] == "1000:1000"


def test_the_demos_model_is_where_the_image_puts_it() -> None:
    recipe = (ROOT / "deploy" / "Containerfile.cpu").read_text()

    assert all(path in recipe for path in command_lines.IN_THE_IMAGE)


def test_the_image_has_every_extra_that_the_manifests_need() -> None:
    recipe = (ROOT / "deploy" / "Containerfile.cpu").read_text()
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", recipe)

    assert {"torch", "nats", "encryption", "jwt", "postgres"} <= set(extras.split(","))


def test_commands_of_the_manifests_are_commands_of_the_packages() -> None:
    ours = {
        container["command"][0]
        for overlay in OVERLAYS
        for pod in pods_of(rendered(overlay))
        for container in pod.containers
        if "/shepherd/" in container["image"]
    }

    assert ours == {"python3", "hf"}
    assert shutil.which("hf", path=str(Path(sys.executable).parent))
