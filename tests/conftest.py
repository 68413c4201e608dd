"""What tests of several kinds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from shepherd_tiny_chat import MODEL_DIR


@pytest.fixture(scope="session")
def tiny_chat_model() -> Path:
    """The chat model that ships."""
    return MODEL_DIR
