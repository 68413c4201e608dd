"""A worker's options become a stream."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from curve_keys import CurveKeys
from shepherd_config import OptionError
from shepherd_worker.config import load_config
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import EngineInfo
from shepherd_worker.errors import UnusableInputError
from shepherd_worker.stream import WorkerStream
from stream_readers import stored


@pytest.fixture
async def info() -> EngineInfo:
    engine = create_engine("fake", load_config(["--model", "m"], {}).config.engine_config())
    info = await engine.start()
    await engine.close()
    return info


async def test_keys_privacy_and_epochs_reach_the_publisher(
    info: EngineInfo, tmp_path: Path
) -> None:
    keys = CurveKeys(tmp_path)
    options = [
        *("--model", "m", "--engine", "fake", "--worker-id", "w1"),
        *("--kv-events-curve-file", keys.publisher.key_file),
        *("--kv-events-curve-readers", keys.publisher.peers),
        *("--kv-events-privacy", "ids-only"),
        *("--kv-events-epoch-file", str(tmp_path / "epoch")),
    ]
    config = load_config(options, {}).config
    (tmp_path / "epoch").write_text(f"{2**62}\n")
    stream = WorkerStream.open(config, info, 7)
    publisher = stream.ranks[0].own
    assert publisher is not None
    stream.close()

    assert publisher.epoch == 2**62 + 1
    assert publisher._info.privacy == "ids-only"
    assert publisher._transport._gate is not None  # type: ignore[attr-defined] # ZMQ's


async def test_an_epoch_file_that_holds_something_else_is_named(
    info: EngineInfo, tmp_path: Path
) -> None:
    (tmp_path / "epoch").write_text("soon")
    options = ["--model", "m", "--kv-events-epoch-file", str(tmp_path / "epoch")]
    with pytest.raises(UnusableInputError, match="holds 'soon'"):
        WorkerStream.open(load_config(options, {}).config, info, 7)


async def test_blocks_are_also_published_in_the_form_of_vllm(info: EngineInfo) -> None:
    options = ["--model", "m", "--kv-events", "none", "--kv-events-also", "vllm://127.0.0.1:0"]
    stream = WorkerStream.open(load_config(options, {}).config, info, 7)
    (also,) = stream.ranks[0].publishers
    also.publish((stored(1),))
    stream.close()

    counters = stream.also_counters()
    assert counters is not None
    assert (counters.messages, counters.events) == (1, 1)


async def test_a_port_that_is_taken_names_the_option(info: EngineInfo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"vllm://127.0.0.1:{taken.getsockname()[1]}"
        options = ["--model", "m", "--kv-events-also", url]
        with pytest.raises(UnusableInputError, match=f"--kv-events-also {url}: cannot listen"):
            WorkerStream.open(load_config(options, {}).config, info, 7)


@pytest.mark.parametrize(
    ("url", "privacy", "words"),
    [
        ("vllm://0.0.0.0:5557", "auto", "expected a loopback address"),
        ("tcp://127.0.0.1:5557", "auto", "expected vllm://HOST:PORT"),
        ("vllm://127.0.0.1:5557", "ids-only", "this form has tokens in clear"),
    ],
)
def test_a_second_form_that_would_tell_too_much_is_refused(
    url: str, privacy: str, words: str
) -> None:
    options = ["--model", "m", "--kv-events-also", url, "--kv-events-privacy", privacy]

    with pytest.raises(OptionError, match=words):
        load_config(options, {})
