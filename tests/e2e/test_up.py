"""`shepherd up`: it says where it is, keeps its processes running, and ends all of them."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from listeners import listeners, why_no_namespace
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE as QUESTIONS
from up_command import Up, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
WORKERS = ("prefill", "decode")
QUESTION = "Why is the sky blue?"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*options: str, **env: str) -> Up:
        started.append(Up(tmp_path, *options, env=env))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def get(url: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def stream_of(up: Up, worker: str) -> dict[str, Any]:
    """What the memory service says of a worker's stream."""
    streams = get(up.of("memory").metrics_url.replace("/metrics", "/health"))["streams"]
    (found,) = (stream for stream in streams if stream["stream"] == f"{worker}/0")
    return dict(found)


def top(up: Up) -> dict[str, Any]:
    """What `shepherd top` shows of it."""
    argv = [sys.executable, "-m", "shepherd_cli", "top", "--build-dir", str(up.build_dir)]
    shown = subprocess.check_output([*argv, "--once", "--json"], timeout=60)
    return dict(json.loads(shown))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_up_restarts_what_is_killed_and_ends_in_order(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    system = up("--log-dir", str(tmp_path / "logs"))
    said = system.welcome()
    assert any(line.startswith("OpenAI API   http://127.0.0.1:") for line in said)
    _, _, command = "".join(said[:-1]).partition("Try:\n")

    def is_answered() -> bool:
        """Dynamo's frontend answers 500 until discovery has forgotten a killed worker."""
        answered = json.loads(subprocess.check_output(["bash", "-c", command], timeout=60))
        said = [each["message"]["content"] for each in answered.get("choices", ())]
        assert said in ([], [dict(QUESTIONS)[QUESTION]])
        return bool(said)

    assert is_answered()
    until(lambda: stream_of(system, "decode")["applied"]["sequence"] > 0)
    before, killed = stream_of(system, "decode"), system.of("decode")
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: system.of("decode").restarts == 1 and system.of("decode").state == "ready")
    assert system.of("decode").last_exit_code == -signal.SIGKILL

    def is_followed_again() -> bool:
        stream = stream_of(system, "decode")
        read = stream["epoch"] > before["epoch"] and stream["applied"]["sequence"] > 0
        return bool(read and stream["state"] == "live")

    until(is_answered)
    until(is_followed_again)

    seen = top(system)
    assert seen["stack"] == "running"
    states = {row["name"]: (row["state"], row["restarts"]) for row in seen["processes"]}
    assert states == {name: ("ready", int(name == "decode")) for name in states}
    assert all(row["cpu"] is not None and row["rss_bytes"] > 1e6 for row in seen["processes"])
    assert {row["name"] for row in seen["workers"]} == {"prefill", "decode"}
    assert all(row["blocks"]["device"][1] == 64 for row in seen["workers"])
    assert seen["memory"]["gaps"] is not None
    assert seen["gateway"]["requests_per_s"] == 0

    system.process.send_signal(signal.SIGHUP)
    assert system.ended()[0] == 0
    lines = [line.partition(" | ")[2] for line in system.log().splitlines()]
    asked = [line.partition(":")[0] for line in lines if line.endswith(": asked to end")]
    assert asked[:2] == ["gateway", "frontend"]
    assert sorted(asked[2:4]) == ["decode", "prefill"]
    assert asked[4:] == ["memory"]
    ended = [line.partition(":")[0] for line in lines if ": ended with 0 " in line]
    assert set(ended) == {"gateway", "frontend", "decode", "prefill", "memory"}
    assert lines[-1] == "everything has ended: SIGHUP"
    assert "serving" in (tmp_path / "logs" / "gateway.log").read_text()
    assert system.left() == []


def open_to_others(pids: list[int], seen_from: int) -> set[tuple[str, int]]:
    """Where processes listen beyond loopback, among the sockets of the namespace of one of them."""
    table = f"/proc/{seen_from}/net"
    found = {place for pid in pids for place in listeners(os.getpgid(pid), table)}
    return {place for place in found if not ipaddress.ip_address(place[0]).is_loopback}


@pytest.mark.skipif(bool(why_no_namespace()), reason=why_no_namespace())
def test_an_isolated_system_is_reached_on_loopback_alone_and_dies_with_its_supervisor(
    up: Callable[..., Up],
) -> None:
    system = up("--isolate", "--engine", "fake", "--log-format", "json", "--served-model-name", "m")
    system.welcome()
    status = system.status()
    pids = [each.pid for each in status.processes if each.pid is not None]
    assert len(pids) == 5

    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    request = urllib.request.Request(
        system.of("gateway").url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    assert get(request)["choices"][0]["message"]["role"] == "assistant"
    assert open_to_others(pids, seen_from=pids[0]), "Dynamo listens on every interface there is"
    assert open_to_others([status.pid, *pids], seen_from=os.getpid()) == set()
    interfaces = Path(f"/proc/{pids[0]}/net/dev").read_text().splitlines()[2:]
    assert [line.partition(":")[0].strip() for line in interfaces] == ["lo"]

    said = [json.loads(line) for line in system.log().splitlines()]
    assert {line["process"] for line in said} >= {"shepherd", "memory", "decode", "gateway"}
    system.process.kill()
    until(lambda: system.left() == [])


def test_a_process_that_cannot_run_ends_everything_with_its_last_lines_and_its_code(
    up: Callable[..., Up],
) -> None:
    system = up("--engine", "fake", SHEPHERD_BLOCK_SIZE="many")
    code, said = system.ended()

    assert code == 2
    first, *last_lines = said.splitlines()
    assert first in {f"shepherd up: {name} ended with 2; its last lines:" for name in WORKERS}
    (last,) = last_lines
    assert last.startswith(
        "    shepherd_worker: SHEPHERD_BLOCK_SIZE: 'many' is not valid: expected"
    )
    assert system.left() == []
