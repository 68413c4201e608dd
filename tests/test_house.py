"""The house keeps its own rules: generated code, imports, types, size."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPONENTS = ROOT / "components"
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
SOURCES = sorted(
    path
    for top in ("components", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
    if "v1" not in path.parts
)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    tool = str(Path(sys.executable).parent / argv[0])
    return subprocess.run([tool, *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_generated_code_is_that_of_the_proto_files(tmp_path: Path) -> None:
    protos = sorted(str(p) for p in (ROOT / "proto").rglob("*.proto"))
    done = run(
        *("python", "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto")),
        *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *protos),
    )

    assert done.returncode == 0, done.stderr
    made = {p.name: p.read_text() for p in (tmp_path / "shepherd_events/v1").iterdir()}
    kept = {
        p.name: p.read_text()
        for p in (COMPONENTS / "shepherd_events/v1").iterdir()
        if "_pb2" in p.name and p.is_file()
    }
    assert made == kept, "run `make proto`"


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("lint-imports",), ("mypy",)],
    ids="-".join,
)
def test_the_tree_is_clean(command: tuple[str, ...]) -> None:
    done = run(*command)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_can_be_held_in_the_head(path: Path) -> None:
    text = path.read_text()
    functions = [
        (node.name, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert [f for f in functions if f[1] > MAX_FUNCTION_LINES] == []


def test_importing_the_worker_needs_neither_torch_nor_a_broker() -> None:
    code = (
        "import sys, shepherd_worker.config, shepherd_worker.engine, shepherd_worker.handlers;"
        "print(sorted({'torch', 'transformers', 'zmq', 'nats', 'dynamo'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(COMPONENTS)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"


def test_the_command_line_of_every_process_has_help() -> None:
    options = {
        "shepherd_worker": "--discovery-backend",
        "shepherd_memory": "--discovery-backend",
        "shepherd_gateway": "--upstream",
    }
    for module, option in options.items():
        done = run("python", "-m", module, "--help")

        assert done.returncode == 0
        assert option in done.stdout
    assert shutil.which("shepherd", path=str(Path(sys.executable).parent))
