"""A model's files: where they are, whether they are whole, and what they are called together.

Reads safetensors headers by itself, so that a truncated download is told in one
line before anything is loaded.  Weights in any other format are never opened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from shepherd_worker.errors import EngineFailedError, UnreachableError, UnusableInputError

_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]
_MAX_HEADER_BYTES = 100_000_000
_NUM_SAMPLES = 16
_SAMPLE_BYTES = 4096
_CONFIG_NOISE = frozenset({"transformers_version", "_name_or_path", "torch_dtype", "dtype"})


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A whole safetensors file."""

    path: Path
    header: bytes
    """Names, types, shapes and places of the tensors."""
    num_bytes: int


def find_model(name: str) -> Path:
    """The directory of a model that is named by path or hub id; downloads what is not there.

    Raises:
        UnusableInputError: there is no such directory, or no such model.
        UnreachableError: the hub does not answer, and nothing is cached.
    """
    directory = Path(name).expanduser()
    if name and directory.is_dir():
        return directory
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or not name:
        raise UnusableInputError(f"model {name!r}: no such directory")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UnusableInputError(f"model {name!r}: no such directory or hub id") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UnreachableError(
            f"model {name!r}: no such directory, and the Hugging Face hub cannot be reached"
        ) from error


def find_weights(directory: Path) -> tuple[WeightFile, ...]:
    """The safetensors files of a model, each one whole.

    Raises:
        UnusableInputError: there is no configuration, or there are no safetensors.
        EngineFailedError: a file is missing, truncated or corrupt.
    """
    if not (directory / "config.json").is_file():
        raise UnusableInputError(f"{directory} holds no model: config.json is missing")
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = set(_read_json(index).get("weight_map", {}).values())
        return tuple(_check_file(directory / name) for name in sorted(names))
    single = directory / "model.safetensors"
    if not single.is_file():
        raise UnusableInputError(
            f"{directory} has no weights in safetensors format; other formats are not read"
        )
    return (_check_file(single),)


def fingerprint(directory: Path, weights: tuple[WeightFile, ...], layout: str) -> bytes:
    """32 bytes, equal for equal weights in an equal `layout`; reads samples, not everything."""
    config = _read_json(directory / "config.json")
    meaning = {key: value for key, value in config.items() if key not in _CONFIG_NOISE}
    digest = blake2b(digest_size=32, person=b"shepherd.model.1")
    parts = [json.dumps(meaning, sort_keys=True).encode(), layout.encode()]
    for file in weights:
        parts += [file.path.name.encode(), str(file.num_bytes).encode(), file.header]
        parts += _samples(file)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _samples(file: WeightFile) -> list[bytes]:
    """Pieces of the tensors, spread over the file."""
    first = 8 + len(file.header)
    pieces = []
    with file.path.open("rb") as stream:
        for i in range(_NUM_SAMPLES):
            stream.seek(first + (file.num_bytes - first) * i // _NUM_SAMPLES)
            pieces.append(stream.read(_SAMPLE_BYTES))
    return pieces


def _check_file(path: Path) -> WeightFile:
    """Source: https://github.com/huggingface/safetensors#format."""
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER_BYTES, num_bytes - 8):
                raise EngineFailedError(f"{path} is corrupt: its header is longer than the file")
            header = stream.read(length)
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except OSError as error:
        raise EngineFailedError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise EngineFailedError(f"{path} is corrupt: its header is not readable") from error
    if num_bytes != 8 + length + end:
        raise EngineFailedError(
            f"{path} is truncated or corrupt: {num_bytes} bytes, expected {8 + length + end}"
        )
    return WeightFile(path, header, num_bytes)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EngineFailedError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise EngineFailedError(f"{path} is not a JSON object")
    return content
