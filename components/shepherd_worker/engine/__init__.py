"""Engines: what turns token ids into token ids and keeps a paged KV cache."""

from __future__ import annotations

from typing import Literal, assert_never

from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.engine.telemetry import EngineTelemetry
from shepherd_worker.engine.vision import ImageEncoder
from shepherd_worker.errors import UnreachableError


def create_engine(
    name: Literal["torch", "trtllm", "fake"],
    config: EngineConfig,
    telemetry: EngineTelemetry | None = None,
) -> Engine:
    """Make an engine; only the chosen one's packages are imported.

    TensorRT-LLM measures itself: `telemetry` has nothing of it.

    Raises:
        UnreachableError: a package that the engine needs is not there.
        UnusableInputError: the KV store's location cannot be used.
    """
    match name:
        case "torch":
            return _create_torch(config, telemetry)
        case "fake":
            from shepherd_worker.engine.fake import FakeEngine  # noqa: PLC0415 - see docstring

            return FakeEngine(config, telemetry=telemetry)
        case "trtllm":
            return _create_trtllm(config)
        case _:
            assert_never(name)


def _create_trtllm(config: EngineConfig) -> Engine:
    # tensorrt_llm takes long to import, and is on few machines
    from shepherd_worker.engine.trtllm.engine import TrtllmEngine  # noqa: PLC0415
    from shepherd_worker.engine.trtllm.library import load_library  # noqa: PLC0415
    from shepherd_worker.engine.trtllm.model import holds_engines  # noqa: PLC0415

    library = load_library(
        autodeploy=config.trtllm.trtllm_backend == "autodeploy",
        built_engine=holds_engines(config.model),
    )
    return TrtllmEngine(config, library)


def _create_torch(config: EngineConfig, telemetry: EngineTelemetry | None) -> Engine:
    try:
        # the extra is optional, and heavy
        from shepherd_worker.engine.embedded.engine import EmbeddedEngine  # noqa: PLC0415
        from shepherd_worker.engine.embedded.torch_runner import TorchRunner  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UnreachableError(
            f"--engine torch needs the package {error.name}: pip install 'shepherd-worker[torch]'"
        ) from error
    return EmbeddedEngine(config, TorchRunner(config), telemetry=telemetry)


def create_encoder(name: Literal["torch", "trtllm", "fake"], config: EngineConfig) -> Engine:
    """Make an engine that encodes images and nothing else, for the encode role.

    Raises:
        UnreachableError: a package that the engine needs is not there, or it has no such half.
    """
    encoder: ImageEncoder
    match name:
        case "torch":
            encoder = _create_torch_encoder(config)
        case "fake":
            from shepherd_worker.engine.fake_vision import FakeImageEncoder  # noqa: PLC0415

            encoder = FakeImageEncoder(config)
        case "trtllm":
            from shepherd_worker.engine.trtllm.encoder import (  # noqa: PLC0415 - as `_create_trtllm`
                TrtllmImageEncoder,
            )
            from shepherd_worker.engine.trtllm.library import load_library  # noqa: PLC0415 - as above

            encoder = TrtllmImageEncoder(config, load_library())
        case _:
            assert_never(name)
    from shepherd_worker.engine.encoder import EncoderEngine  # noqa: PLC0415 - see docstring

    return EncoderEngine(config, encoder, name=name)


def _create_torch_encoder(config: EngineConfig) -> ImageEncoder:
    try:
        from shepherd_worker.engine.embedded.model.torch_encoder import (  # noqa: PLC0415 - optional
            TorchImageEncoder,
        )
    except ModuleNotFoundError as error:
        raise UnreachableError(
            f"--engine torch needs the package {error.name}: pip install 'shepherd-worker[torch]'"
        ) from error
    return TorchImageEncoder(config)
