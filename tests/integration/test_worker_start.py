"""A worker that cannot start says why in one line and ends with a documented code."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shepherd_cli.stack import free_port
from tiny_models import make_tiny_model
from trtllm_fake import no_trtllm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("start") / "qwen2", "qwen2", seed=1)


def start(tmp_path: Path, *args: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "shepherd_worker", *args],
        env=os.environ | {"DYN_FILE_KV": str(tmp_path / "discovery"), "DYN_LOG": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def test_a_wrong_option_is_code_2(tmp_path: Path) -> None:
    assert start(tmp_path, "--model", "m", "--role", "prefil") == (
        2,
        [("shepherd_worker: --role: 'prefil' is not valid: expected one of aggregated, prefill, "
         "decode, encode; did you mean 'prefill'?")],
    )  # fmt: skip


def test_a_missing_model_directory_is_code_3(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")

    assert start(tmp_path, "--model", missing) == (
        3,
        [(f"shepherd_worker: --model: there is no directory '{missing}'; "
         "name a model directory or a hub id")],
    )  # fmt: skip


def test_a_directory_without_a_model_or_tokenizer_is_code_3(tmp_path: Path, model: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert start(tmp_path, "--model", str(empty)) == (
        3,
        [f"shepherd_worker: {empty} holds no model: config.json is missing"],
    )

    mute = shutil.copytree(model, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    code, lines = start(tmp_path, "--model", str(mute))
    assert code == 3
    assert lines[-1].startswith(f"shepherd_worker: --tokenizer: {mute} has no tokenizer.json")


def test_corrupt_weights_are_code_5(tmp_path: Path, model: Path) -> None:
    corrupt = shutil.copytree(model, tmp_path / "corrupt")
    weights = corrupt / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    assert start(tmp_path, "--model", str(corrupt)) == (
        5,
        [f"shepherd_worker: {weights} is corrupt: its header is longer than the file"],
    )


@pytest.mark.parametrize("option", ["--kv-events-endpoint", "--system-port"])
def test_a_port_in_use_is_code_3(tmp_path: Path, option: str, model: Path) -> None:
    with socket.create_server(("127.0.0.1", port := free_port())):
        value = f"tcp://127.0.0.1:{port}" if "events" in option else str(port)
        code, lines = start(tmp_path, "--model", str(model), "--engine", "fake", option, value)

    assert code == 3
    assert lines[-1].startswith(f"shepherd_worker: {option} {value}: cannot listen on")


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("nats://127.0.0.1:9", "cannot publish through nats://127.0.0.1:9"),
        ("nats://10.1.2.3:4222", "without TLS and an NKEY"),
    ],
)
def test_a_broker_that_cannot_be_used_is_code_3(
    tmp_path: Path, model: Path, endpoint: str, words: str
) -> None:
    options = ("--engine", "fake", "--kv-events", "nats", "--kv-events-endpoint", endpoint)
    code, lines = start(tmp_path, "--model", str(model), *options)

    assert code == 3
    assert words in lines[-1]


def test_a_listener_beyond_loopback_without_keys_is_code_2(tmp_path: Path, model: Path) -> None:
    public = "tcp://0.0.0.0:0"
    code, lines = start(
        tmp_path, "--model", str(model), "--engine", "fake", "--kv-events-endpoint", public
    )

    assert code == 2
    assert "expected a loopback address, or --kv-events-curve-file" in lines[-1]


def test_an_engine_whose_package_is_missing_is_code_4(tmp_path: Path, model: Path) -> None:
    with no_trtllm():
        installed = importlib.util.find_spec("tensorrt_llm") is not None
    if installed:
        pytest.skip("TensorRT-LLM is installed here")
    code, lines = start(tmp_path, "--model", str(model), "--engine", "trtllm")

    assert code == 4
    assert "pip install 'shepherd-worker[trtllm]'" in lines[-1]


def test_discovery_that_cannot_be_used_is_code_4(tmp_path: Path, model: Path) -> None:
    (tmp_path / "discovery").write_text("a file where a directory is needed")
    code, lines = start(tmp_path, "--model", str(model), "--engine", "fake")

    assert code == 4
    assert lines[-1].startswith(
        "shepherd_worker: --discovery-backend file: this worker cannot be registered: "
    )


def test_check_prints_every_value_with_its_source_and_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shepherd_worker", "--model", "org/name", "--check"],
        env=os.environ | {"SHEPHERD_BLOCK_SIZE": "32"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["--model"] == ["org/name", "flag", "--model"]
    assert rows["--block-size"] == ["32", "variable", "SHEPHERD_BLOCK_SIZE"]
    assert rows["--role"] == ["aggregated", "default"]


def test_a_kv_store_that_cannot_be_used_is_code_3_before_the_model_is_looked_at(
    tmp_path: Path,
) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()

    assert start(tmp_path, "--model", str(empty), "--kv-connector", f"disk:{file}") == (
        3,
        [(f"shepherd_worker: --kv-connector: {file} cannot be used as a directory to write to: "
         "File exists")],
    )  # fmt: skip
