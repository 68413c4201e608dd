"""What tests of several kinds share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_server import PostgresServer, why_not
from shepherd_tiny_chat import MODEL_DIR


@pytest.fixture(scope="session")
def tiny_chat_model() -> Path:
    """The chat model that ships."""
    return MODEL_DIR


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that leave it running."""
    if reason := why_not():
        pytest.skip(reason)
    server = PostgresServer().start()
    server.make_roles()
    yield server
    server.remove()
