"""Write requirements.lock: what constraints.txt names, each with the SHA-256 of its file.

    .venv/bin/python scripts/lock.py

Asks the public registry through pip, whatever index this machine is set up for, and
installs nothing.  One file per package: the one that pip takes on CPython 3.11 and
x86-64 Linux, where this must run.  torch is left out: which build of it is right depends
on the machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
NOT_LOCKED = ("torch==",)
HEADER = """\
# Written by scripts/lock.py from constraints.txt: CPython 3.11 on x86-64 Linux, without torch.
"""


def pins() -> list[str]:
    """The lines of constraints.txt that are locked."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line for line in lines if "==" in line and not line.startswith(("#", *NOT_LOCKED))]


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved() -> list[dict[str, Any]]:
    """What pip would install for the pins."""
    with TemporaryDirectory() as directory:
        wanted, report = Path(directory) / "pins.txt", Path(directory) / "report.json"
        wanted.write_text("\n".join(pins()), "utf-8")
        subprocess.run(  # noqa: S603  our own arguments
            [
                *(sys.executable, "-m", "pip", "install", "--isolated", "--quiet"),
                *("--dry-run", "--ignore-installed", "--no-deps"),
                *("--report", str(report), "--requirement", str(wanted)),
            ],
            check=True,
        )
        installs: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["install"]
    return installs


def main() -> None:
    """Write the file anew."""
    digests = {
        canonical(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"][
            "sha256"
        ]
        for item in resolved()
    }
    locked = [
        f"{pin} --hash=sha256:{digests[canonical(pin.partition('==')[0])]}\n" for pin in pins()
    ]
    (ROOT / "requirements.lock").write_text(HEADER + "".join(locked), "utf-8")


if __name__ == "__main__":
    main()
