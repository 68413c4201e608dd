"""What the script of secrets makes is usable, and kept from others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from k8s_validator.sample_secrets import make_secrets, sample_secrets
from postgres_server import PostgresServer, why_not
from shepherd_memory.archive.postgres_migrations import prepare
from shepherd_memory.archive.postgres_pool import PostgresOptions


def test_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    printed = make_secrets(tmp_path / "secrets")
    files = [path for path in (tmp_path / "secrets").rglob("*") if path.is_file()]

    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert printed
    assert not [path for path in files if printed.encode() in path.read_bytes()]


def test_two_runs_share_no_secret(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    again = {
        path.name: path.read_bytes()
        for path in (tmp_path / "secrets").rglob("*")
        if path.is_file() and path.name in {"secret", "tenant-salt", "tenant-keys", "tls.key"}
    }
    first = {key: text for files in sample_secrets().values() for key, text in files.items()}

    assert len(again) == 4
    assert [name for name, text in again.items() if first[name] == text] == []


@pytest.mark.skipif(why_not() != "", reason=why_not())
def test_the_roles_of_the_script_suffice_for_the_archive(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    statements = (tmp_path / "secrets" / "roles.sql").read_text().splitlines()
    server = PostgresServer().start()
    try:
        for statement in statements:
            server.execute(statement)
        url = re.sub("/postgres$", "/shepherd", server.url("shepherd_memory"))
        options = PostgresOptions(url=url, schema="shepherd", connect_timeout_s=2.0)
        prepare(options, replace(options, url=url.replace("shepherd_memory", "shepherd_owner")))
    finally:
        server.remove()
