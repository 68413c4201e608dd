"""A model's directory is told to be unusable or broken in one line, before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_calls import config, make_engine, started
from shepherd_worker.engine.embedded.weights import find_model, find_weights, fingerprint
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import EngineFailedError, StartError, UnusableInputError
from tiny_models import make_tiny_model, tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_model("qwen2"), tmp_path / "model"))


async def start_error(limits: EngineConfig) -> StartError:
    engine = make_engine("torch", limits)
    with pytest.raises(StartError) as failed:
        await engine.start()
    await engine.close()
    return failed.value


async def fingerprint_of(directory: Path, **limits: Any) -> bytes:
    engine = make_engine("torch", config(model=str(directory), **limits))
    async with started(engine) as info:
        return info.model_fingerprint


@pytest.mark.parametrize("named", ["/no/such/model", "./no-such", "a/b/c", ""])
async def test_a_directory_that_is_missing(named: str) -> None:
    error = await start_error(config(model=named))

    assert type(error) is UnusableInputError
    assert str(error) == f"model {named!r}: no such directory"
    assert error.exit_code == 3


async def test_a_directory_without_a_configuration(model: Path) -> None:
    (model / "config.json").unlink()
    error = await start_error(config(model=str(model)))

    assert type(error) is UnusableInputError
    assert str(error) == f"{model} holds no model: config.json is missing"


async def test_weights_in_another_format_are_not_opened(model: Path) -> None:
    (model / WEIGHTS).rename(model / "pytorch_model.bin")
    error = await start_error(config(model=str(model)))

    assert type(error) is UnusableInputError
    assert "no weights in safetensors format" in str(error)


async def test_a_truncated_download(model: Path) -> None:
    file = model / WEIGHTS
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    error = await start_error(config(model=str(model)))

    assert type(error) is EngineFailedError
    assert str(error) == (
        f"{file} is truncated or corrupt: {len(whole) - 1} bytes, expected {len(whole)}"
    )
    assert error.exit_code == 5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its header"),
        (b"\x00" * 8, "its header is not readable"),
        (b"\xff" * 64, "its header is longer than the file"),
        (b"\x02" + b"\x00" * 7 + b"[]", "its header is not readable"),
        (b"\x08" + b"\x00" * 7 + b'{"a": 1}', "its header is not readable"),
    ],
)
async def test_a_corrupt_file(model: Path, content: bytes, reason: str) -> None:
    (model / WEIGHTS).write_bytes(content)
    error = await start_error(config(model=str(model)))

    assert type(error) is EngineFailedError
    assert str(error).startswith(f"{model / WEIGHTS} is corrupt: {reason}")


async def test_a_shard_that_the_index_names_is_missing(model: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": WEIGHTS}}
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    error = await start_error(config(model=str(model)))

    assert type(error) is EngineFailedError
    assert "one.safetensors cannot be read: No such file or directory" in str(error)


async def test_weights_that_lack_a_tensor_of_the_model(model: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model / WEIGHTS, {"format": "pt"})
    error = await start_error(config(model=str(model)))

    assert type(error) is EngineFailedError
    assert "missing_keys model.layers.1.mlp.up_proj.weight" in str(error)


async def test_a_configuration_that_is_no_json(model: Path) -> None:
    (model / "config.json").write_text("{")
    error = await start_error(config(model=str(model)))

    assert type(error) is EngineFailedError


async def test_options_that_no_machine_has(model: Path) -> None:
    wrong_type = await start_error(config(model=str(model), dtype="int4"))
    wrong_device = await start_error(config(model=str(model), device="abacus"))

    assert type(wrong_type) is type(wrong_device) is UnusableInputError
    assert str(wrong_type).startswith("dtype='int4': expected auto, float32")
    assert str(wrong_device) == "device='abacus': expected auto, cpu or cuda"


async def test_more_blocks_than_memory(model: Path) -> None:
    error = await start_error(config(model=str(model), num_kv_blocks=10**12))

    assert type(error) is EngineFailedError
    assert "KV blocks need" in str(error)


async def test_the_fingerprint_is_that_of_what_is_computed(model: Path, tmp_path: Path) -> None:
    own = await fingerprint_of(model)
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    settings = json.loads((moved / "config.json").read_text())
    settings["transformers_version"] = "0"
    (moved / "config.json").write_text(json.dumps(settings, indent=7))
    other = make_tiny_model(tmp_path / "other", "qwen2", seed=1)

    assert len(own) == 32
    assert await fingerprint_of(moved) == own
    different = [
        await fingerprint_of(other),
        await fingerprint_of(model, dtype="bfloat16"),
        await fingerprint_of(model, block_size=8),
        await fingerprint_of(tiny_model("llama")),
    ]
    assert len({own, *different}) == 5


def test_a_changed_tensor_changes_the_fingerprint(model: Path) -> None:
    before = fingerprint(model, find_weights(model), "layout")
    tensors = load_file(model / WEIGHTS)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + torch.tensor(1.0)
    save_file(tensors, model / WEIGHTS, {"format": "pt"})

    assert fingerprint(model, find_weights(model), "layout") != before


def test_a_home_directory_is_understood(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))

    assert find_model("~/model") == model
