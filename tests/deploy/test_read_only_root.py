"""What pods are allowed to write is enough: a root file system that is read-only, and /tmp."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shepherd_cli.stack import free_port
from shepherd_tiny_chat import MODEL_DIR

ROOT = Path(__file__).parents[2]
INSIDE = """
mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && mkdir /mnt/root
mount --rbind / /mnt/root && mount -o remount,ro,bind /mnt/root && mount -t tmpfs tmpfs /mnt/root/tmp
for needed in "$REPOSITORY" "$ENVIRONMENT"; do
    [[ "$needed" == /tmp/* ]] || continue
    mkdir -p "/mnt/root$needed" && mount --rbind "$needed" "/mnt/root$needed"
    mount -o remount,ro,bind "/mnt/root$needed"
done
exec chroot /mnt/root bash -c "$WITHIN"
"""
WITHIN = f"""
cd / && touch "$REPOSITORY/written" 2>/dev/null && echo the root is writable
{sys.executable} -m shepherd_worker --engine torch --device cpu --model "$MODEL" \
    --num-kv-blocks 64 --kv-events none --system-port "$PORT" > /tmp/log 2>&1 &
for _ in $(seq 100); do
    curl -sf "http://127.0.0.1:$PORT/health" && break
    kill -0 $! || break
    sleep 0.2
done
kill $!; wait $!; echo " exit $?"; grep -i "read-only" /tmp/log
"""


def can_unshare() -> bool:
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0 and shutil.which("curl") is not None


@pytest.mark.skipif(not can_unshare(), reason="needs a mount namespace of its own, and curl")
def test_a_worker_becomes_ready_and_leaves_with_only_tmp_to_write_to() -> None:
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", INSIDE],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT / "components"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": "/tmp",
            "DYN_FILE_KV": "/tmp/discovery",
            "HF_HUB_OFFLINE": "1",
            "REPOSITORY": str(ROOT),
            "ENVIRONMENT": sys.prefix,
            "MODEL": str(MODEL_DIR),
            "PORT": str(free_port()),
            "WITHIN": WITHIN,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert '"status":"ready"' in done.stdout, done.stdout + done.stderr
    assert done.stdout.endswith(" exit 0\n"), done.stdout + done.stderr
    assert "writable" not in done.stdout
