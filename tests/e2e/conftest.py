"""A real Dynamo frontend, real workers, a real memory service, in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from shepherd_cli.stack import Stack
from tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a ChatML template, float32."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "qwen2", "qwen2", seed=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """An empty stack that is stopped when the module's tests are done."""
    async with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.env["OMP_NUM_THREADS"] = "1"
        yield stack
