"""What stores of the first version were made with: upgrades begin there, so it never changes."""

from __future__ import annotations

import hashlib

import pytest

from shepherd_memory.archive import postgres_schema, sqlite_schema

SHA256 = {
    "sqlite": "6edf0b42fa0f10da0e1dcdcb076aee6883d22dd3fa47d2a4161d21ab3e078ae4",
    "postgres": "43da8ae08c2af67bc481dd7f3e40be3568b0aac6460ee673991226cc84e38705",
}
"""Of the statements that made version 1."""


@pytest.mark.parametrize("store", SHA256)
def test_what_version_1_was_made_with_is_never_rewritten(store: str) -> None:
    made_with = {
        "sqlite": sqlite_schema.MIGRATIONS[0],
        "postgres": postgres_schema.MIGRATIONS[0],
    }[store]

    assert isinstance(made_with, str)
    assert hashlib.sha256(made_with.encode()).hexdigest() == SHA256[store]
