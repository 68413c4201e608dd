"""What `shepherd up` takes, refuses, and makes of it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from shepherd_cli.parts import Role
from shepherd_cli.supervisor.status import ProcessStatus, StackStatus, StatusFileError
from shepherd_cli.system import System, design
from shepherd_cli.up import run_up
from shepherd_cli.up_options import UpOptions, load_options
from shepherd_config import OptionError


def options(*argv: str) -> UpOptions:
    return load_options(argv, environ={}).config


def designed(*argv: str) -> System:
    ports = iter(range(20_000, 30_000))
    return design(options(*argv), {"PATH": "/bin"}, lambda: next(ports))


def test_one_of_each_role_and_no_broker_without_options() -> None:
    system = designed("--build-dir", "/tmp/b")
    names = [(part.name, part.role) for part in system.parts]

    assert names == [
        ("memory", Role.MEMORY),
        ("prefill", Role.WORKER),
        ("decode", Role.WORKER),
        ("frontend", Role.FRONTEND),
        ("gateway", Role.GATEWAY),
    ]
    assert system.env["DYN_EVENT_PLANE"] == "zmq"
    assert len(set(system.ports)) == len(system.ports)
    for part in system.parts:
        assert int(part.url.rpartition(":")[2]) in system.ports
        assert int(part.metrics_url.split(":")[2].partition("/")[0]) in system.ports


def test_workers_are_numbered_where_there_are_several() -> None:
    system = designed("--prefill", "0", "--decode", "0", "--aggregated", "2")

    assert [part.name for part in system.of(Role.WORKER)] == ["aggregated-0", "aggregated-1"]


def test_with_a_broker_everything_goes_over_it() -> None:
    system = designed("--broker", "nats")
    (broker,) = system.of(Role.BROKER)

    assert system.env["DYN_EVENT_PLANE"] == "nats"
    assert system.env["NATS_SERVER"] == broker.url
    for worker in system.of(Role.WORKER):
        at = worker.argv.index("--kv-events")
        assert worker.argv[at : at + 4] == (
            "--kv-events",
            "nats",
            "--kv-events-endpoint",
            broker.url,
        )
    assert int(broker.url.rpartition(":")[2]) not in system.ports


def test_the_same_ports_can_be_had_again() -> None:
    first = designed("--port", "8080")
    again = design(options("--port", "8080"), {}, lambda: 1, first.ports)

    assert first.gateway.url == "http://127.0.0.1:8080"
    assert [part.url for part in again.parts] == [part.url for part in first.parts]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--model", "/no/such"), "--model: '/no/such' is not valid: expected a directory"),
        (("--decode", "0"), "--decode: 0 is not valid: expected a worker that generates"),
        (("--prefill", "0"), "--prefill: 0 is not valid"),
        (("--decode", "0", "--aggregated", "1"), "--decode: 0 is not valid"),
        (("--broker", "kafka"), "expected one of none, nats"),
        (("--log-formt", "json"), "did you mean '--log-format'"),
    ],
)
def test_what_cannot_serve_is_refused_by_name(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        load_options(argv, environ={})

    assert message in str(refused.value)
    assert run_up(argv) == 2


def test_check_shows_the_values_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_up(["--check", "--build-dir", str(tmp_path / "b"), "--max-restarts", "7"]) == 0

    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["--max-restarts", "7", "flag", "--max-restarts"] in shown
    assert not (tmp_path / "b").exists()


def test_two_systems_in_one_directory_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "up").mkdir()
    with (tmp_path / "up" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert run_up(["--build-dir", str(tmp_path)]) == 3
    assert "is in use by another `shepherd up`: give --build-dir" in capsys.readouterr().err


def test_the_status_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    process = ProcessStatus("gateway", "gateway", "ready", 12, 1, -9, "http://x", "")
    status = StackStatus(1, 2.5, (process,), "SIGTERM")
    status.write(tmp_path / "stack.json")

    assert StackStatus.read(tmp_path / "stack.json") == status
    assert not status.is_running
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"processes": [{}], "pid": 1}'])
def test_another_file_is_no_status(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stack.json"
    path.write_text(text)

    with pytest.raises(StatusFileError, match="expected what `shepherd up` writes"):
        StackStatus.read(path)
    with pytest.raises(StatusFileError, match="No such file"):
        StackStatus.read(tmp_path / "none")
