"""The fake TensorRT-LLM, put where `import tensorrt_llm` finds it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import REGISTRY

from shepherd_worker.engine.embedded.runner import Runner

FAKES = Path(__file__).parent / "fakes"
COMPONENTS = FAKES.parents[1] / "components"
VERSIONS = ("1.2.0", "1.3.0rc20", "1.3.0rc26")
DEFAULT_VERSION = "1.3.0rc20"
_OURS = ("tensorrt_llm", "trtllm_backend")


def use_fake_trtllm(version: str = DEFAULT_VERSION) -> None:
    """Make `tensorrt_llm` the fake of this version, whatever it was."""
    if str(FAKES) not in sys.path:
        sys.path.insert(0, str(FAKES))
    os.environ["FAKE_TRTLLM_VERSION"] = version
    loaded = sys.modules.get("trtllm_backend.variants")
    if loaded is None or loaded.VARIANT.version != version:
        forget_trtllm()
        _forget_native_metrics()


def fake_environment(version: str = DEFAULT_VERSION, runner: str = "torch") -> dict[str, str]:
    """What a worker's process needs to find the fake and take it for the engine."""
    path = [str(COMPONENTS), str(FAKES), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": ":".join(path),
        "FAKE_TRTLLM_VERSION": version,
        "FAKE_TRTLLM_RUNNER": runner,
        "SHEPHERD_ENGINE": "trtllm",
        "SHEPHERD_BLOCK_SIZE": "16",
    }


def forget_trtllm() -> None:
    """Let the next import begin anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]


@contextmanager
def no_trtllm() -> Iterator[None]:
    """A machine without TensorRT-LLM."""
    before, sys.path[:] = sys.path[:], [path for path in sys.path if path != str(FAKES)]
    forget_trtllm()
    try:
        yield
    finally:
        sys.path[:] = before


def compute_next_with(runner: Runner) -> None:
    """The next engine that the fake makes computes with this runner."""
    importlib.import_module("trtllm_backend.backend").NEXT_RUNNERS.append(runner)


def _forget_native_metrics() -> None:
    """The default registry outlives the fake, and refuses a second collector of one name."""
    for collector in tuple(REGISTRY._collector_to_names):
        if type(collector).__module__ == "prometheus_client.metrics":
            REGISTRY.unregister(collector)
