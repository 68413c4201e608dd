"""What the files look like to those who own the machine."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.errors import SchemaVersionError
from shepherd_memory.index_store import IndexStore


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_tenants_file_is_named_by_a_hash_in_a_directory_of_the_owners(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "tenants"
    archives = SqliteArchives(directory)
    archives.of("../acme")

    (path,) = directory.glob("*.db")
    # printf '../acme' | sha256sum
    assert path.stem == "343724998c0306682047147bdf567ac9ca4005f8194c4d1c5b6183bcf47dba0a"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert pragma(path, "journal_mode") == "wal"
    with archives.of("../acme")._file.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    archives.close()


def test_a_file_whose_creation_was_cut_off_is_no_tenant(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()

    assert list(SqliteArchives(tmp_path).tenants()) == []


def open_archive(directory: Path) -> None:
    archives = SqliteArchives(directory)
    try:
        archives.of("t")
    finally:
        archives.close()


def open_index(directory: Path) -> None:
    IndexStore(directory / "index.db").close()


@pytest.mark.parametrize(("open_store", "version"), [(open_archive, 2), (open_index, 1)])
def test_a_file_of_a_later_version_is_refused_untouched(
    tmp_path: Path, open_store: Callable[[Path], None], version: int
) -> None:
    open_store(tmp_path)
    (path,) = tmp_path.glob("*.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 99")

    with pytest.raises(SchemaVersionError) as caught:
        open_store(tmp_path)

    assert (caught.value.path, caught.value.found, caught.value.supported) == (path, 99, version)


def test_the_service_loads_no_tensors_and_no_model_code() -> None:
    code = (
        "import sys, shepherd_memory.service;"
        "print(sorted({'torch', 'transformers', 'dynamo'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
