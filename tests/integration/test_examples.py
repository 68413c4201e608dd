"""Every example prints what its first lines promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("[0-9]*.py"))


def promised(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    _, _, after = docstring.partition("Expected output")
    blocks = re.findall(r"(?:^    .*\n)+", after, flags=re.MULTILINE)
    return textwrap.dedent(blocks[0])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_promises(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=True
    )

    def masked(text: str) -> str:
        """Without what differs from run to run: ports and times."""
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
        text = re.sub(r" +\d+ ms\b", " N ms", text)
        return re.sub(r"\b\d+\.\d times as fast", "N times as fast", text)

    assert masked(done.stdout) == masked(promised(path))
