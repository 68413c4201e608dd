"""Engines: what turns token ids into token ids and keeps a paged KV cache."""

from __future__ import annotations

from typing import Literal, assert_never

from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.errors import UnreachableError


def create_engine(name: Literal["torch", "trtllm", "fake"], config: EngineConfig) -> Engine:
    """Make an engine; only the chosen one's packages are imported.

    Raises:
        UnreachableError: a package that the engine needs is not there.
    """
    match name:
        case "torch":
            return _create_torch(config)
        case "fake":
            from shepherd_worker.engine.fake import FakeEngine  # noqa: PLC0415 - see docstring

            return FakeEngine(config)
        case "trtllm":
            raise UnreachableError(
                "this version has no TensorRT-LLM adapter yet: use --engine torch, which serves "
                "Hugging Face models on CPU and CUDA"
            )
        case _:
            assert_never(name)


def _create_torch(config: EngineConfig) -> Engine:
    try:
        # the extra is optional, and heavy
        from shepherd_worker.engine.embedded.engine import EmbeddedEngine  # noqa: PLC0415
        from shepherd_worker.engine.embedded.torch_runner import TorchRunner  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UnreachableError(
            f"--engine torch needs the package {error.name}: pip install 'shepherd-worker[torch]'"
        ) from error
    return EmbeddedEngine(config, TorchRunner(config))
