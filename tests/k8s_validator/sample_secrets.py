"""The Secrets of deploy/k8s as the script makes them, once a process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make_secrets(directory: Path) -> str:
    """Run the script; what it printed."""
    script = str(ROOT / "scripts" / "make_deploy_secrets.py")
    done = subprocess.run(
        [sys.executable, script, str(directory), "--postgres-ca", str(ROOT / "LICENSE")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "components"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@cache
def sample_secrets() -> Mapping[str, Mapping[str, bytes]]:
    """File contents by Secret and key."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "secrets"
        make_secrets(made)
        return {
            secret.name: {key.name: key.read_bytes() for key in secret.iterdir()}
            for secret in made.iterdir()
            if secret.is_dir()
        }
