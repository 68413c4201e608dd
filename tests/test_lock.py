"""requirements.lock holds what constraints.txt names, each with its hash."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LOCKED = re.compile(r"^(\S+==\S+) --hash=sha256:[0-9a-f]{64}$", re.MULTILINE)


def test_the_lock_names_what_the_constraints_do_and_nothing_without_a_hash() -> None:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    pinned = [
        line
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if line and not line.startswith(("#", "torch=="))
    ]

    assert all(_LOCKED.match(line) for line in lines)
    assert sorted(_LOCKED.findall("\n".join(lines))) == sorted(pinned), "run scripts/lock.py"
