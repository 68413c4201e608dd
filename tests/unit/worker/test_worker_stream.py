"""A worker's options become a stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from curve_keys import CurveKeys
from shepherd_worker.config import load_config
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import EngineInfo
from shepherd_worker.errors import UnusableInputError
from shepherd_worker.stream import WorkerStream


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
    assert stream.publisher is not None
    stream.close()

    assert stream.publisher.epoch == 2**62 + 1
    assert stream.publisher._info.privacy == "ids-only"
    assert stream.publisher._transport._gate is not None  # type: ignore[attr-defined] # ZMQ's


async def test_an_epoch_file_that_holds_something_else_is_named(
    info: EngineInfo, tmp_path: Path
) -> None:
    (tmp_path / "epoch").write_text("soon")
    options = ["--model", "m", "--kv-events-epoch-file", str(tmp_path / "epoch")]
    with pytest.raises(UnusableInputError, match="holds 'soon'"):
        WorkerStream.open(load_config(options, {}).config, info, 7)
