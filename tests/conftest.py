"""What tests of several kinds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from shepherd_cli.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model, trained once per test run; about twenty seconds."""
    return make_tiny_model(tmp_path_factory.mktemp("chat") / "tiny-model")
