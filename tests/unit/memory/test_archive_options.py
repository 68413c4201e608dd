"""Which archives may be named, and what is said of those that may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shepherd_config import OptionError
from shepherd_memory.config import load_config

LOCAL = "postgresql://shepherd@127.0.0.1/memory"


def test_files_are_the_default() -> None:
    config = load_config([], {}).config

    assert (config.archive, config.uses_postgres) == ("sqlite", False)


def test_a_database_is_reached_with_what_the_files_say(tmp_path: Path) -> None:
    password, owner = tmp_path / "password", tmp_path / "owner"
    password.write_text("secret\n")
    owner.write_text(f"{LOCAL}?user=owner\n")
    password.chmod(0o600)
    owner.chmod(0o600)
    arguments = ["--archive", LOCAL, "--archive-schema", "team a", "--archive-connections", "3"]
    arguments += ["--archive-password-file", str(password), "--archive-owner-url-file", str(owner)]

    options = load_config(arguments, {}).config.postgres()
    theirs = load_config(arguments, {}).config.postgres_owner()

    assert (options.url, options.password, options.schema) == (LOCAL, "secret", "team a")
    assert options.max_connections == 3
    assert options.name == "postgresql 127.0.0.1/memory:team a"
    assert theirs is not None
    assert (theirs.url, theirs.password, theirs.schema) == (f"{LOCAL}?user=owner", "", "team a")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://here/db", "sqlite or postgresql://role@host/database"),
        ("postgresql://shepherd:secret@127.0.0.1/db", "no password in it: --archive-password-file"),
        ("postgresql://db.example/memory", "sslmode=verify-full"),
        ("postgresql://db.example/memory?sslmode=prefer", "sslmode=verify-full"),
        ("postgresql://x@h/db?nonsense=1", "a URL as libpq reads it"),
    ],
)
def test_what_is_wrong_with_a_database_is_said_and_no_secret_with_it(
    url: str, expected: str
) -> None:
    with pytest.raises(OptionError) as told:
        load_config(["--archive", url], {})

    assert "--archive" in str(told.value)
    assert expected in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("postgres", "it is not MODULE:FACTORY"),
        ("no_such_module:Archives", "No module named 'no_such_module'"),
        ("shepherd_memory.archive.fake:Missing", "has no attribute 'Missing'"),
        ("shepherd_memory.archive.fake:json.dumps", "has no attribute"),
        ("shepherd_memory.errors:__name__", "it cannot be called"),
    ],
)
def test_a_store_that_cannot_be_loaded_is_refused_at_the_start(name: str, why: str) -> None:
    with pytest.raises(OptionError) as told:
        load_config(["--archive", name], {})

    assert f"--archive={name!r}" in str(told.value) or name in str(told.value)
    assert "MODULE:FACTORY" in str(told.value)
    assert why in str(told.value)


def test_a_store_of_ones_own_is_neither_sqlite_nor_postgresql() -> None:
    config = load_config(["--archive", "shepherd_memory.archive.fake:FakeArchives"], {}).config

    assert (config.uses_foreign, config.uses_postgres) == (True, False)


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o644)

    with pytest.raises(OptionError, match="--archive-password-file"):
        load_config(["--archive", LOCAL, "--archive-password-file", str(password)], {})


def test_a_database_beyond_this_machine_is_reached_by_tls() -> None:
    url = "postgresql://shepherd@db.example/memory?sslmode=verify-full&sslrootcert=/etc/ca.pem"

    assert load_config(["--archive", url], {}).config.postgres().url == url
