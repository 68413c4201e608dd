"""What is erased is gone from the disk, and nobody else's file is touched."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from archive_samples import a_notice, a_turn, keep
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.records import DeadLetter, Quota
from shepherd_memory.archive.sqlite_schema import MIGRATIONS
from shepherd_memory.search import search

CANARY = "xylophonist"


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[SqliteArchives]:
    opened = SqliteArchives(tmp_path / "tenants")
    yield opened
    opened.close()


def files_with(directory: Path, word: str) -> list[str]:
    """The files that hold a word, in whatever case or stem."""
    stem = word[:8].encode()
    return [
        path.name for path in directory.rglob("*") if path.is_file() and stem in path.read_bytes()
    ]


def fill(archives: SqliteArchives, tenant: str = "t") -> None:
    """A conversation with the canary among others without it, in many transactions."""
    for number in range(1, 30):
        keep(
            archives,
            a_turn(number, f"other {number}", session="o", tenant=tenant),
            tenant=tenant,
            archived=True,
        )
    keep(
        archives,
        a_turn(1, f"the {CANARY}", session="s", tenant=tenant),
        tenant=tenant,
        archived=True,
    )
    keep(archives, a_turn(2, f"live {CANARY}", session="s", tenant=tenant), tenant=tenant)
    with archives.of(tenant).writing() as writer:
        notice = a_notice("n")
        writer.add_notice(type(notice)(**{**_fields(notice), "topic": CANARY}))
        writer.put_dead_letter(DeadLetter("d", "s", "poison", CANARY.encode(), 1))


def _fields(notice: object) -> dict[str, object]:
    names = notice.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(notice, name) for name in names}


def test_an_erasure_overwrites_what_a_library_that_is_less_tidy_had_left(
    archives: SqliteArchives, tmp_path: Path
) -> None:
    """Some builds of SQLite overwrite what they delete at once, others never."""
    fill(archives, "t")
    (path,) = (tmp_path / "tenants").glob("*.db")
    with closing(sqlite3.connect(path)) as untidy:
        untidy.execute("PRAGMA secure_delete = OFF")
        untidy.execute("CREATE TABLE litter (words TEXT)")
        untidy.execute("INSERT INTO litter VALUES (?)", ("zymurgist " * 2000,))
        untidy.commit()
        untidy.execute("DROP TABLE litter")
        untidy.commit()
    assert files_with(tmp_path, "zymurgist")

    archives.of("t").erase_session("s", 100)

    assert files_with(tmp_path, "zymurgist") == []


def test_an_erased_sessions_words_are_nowhere_on_the_disk(
    archives: SqliteArchives, tmp_path: Path
) -> None:
    fill(archives)
    assert files_with(tmp_path, CANARY)

    erased = archives.of("t").erase_session("s", 100)

    assert (erased.turns, erased.notices, erased.dead_letters) == (2, 1, 1)
    assert files_with(tmp_path, CANARY) == []
    assert len(search(archives.of("t"), "other", 50)) == 29


def test_an_erased_turn_fact_and_pruned_turn_leave_no_word(
    archives: SqliteArchives, tmp_path: Path
) -> None:
    archive = archives.of("t")
    turn = a_turn(1, f"the {CANARY}")
    keep(archives, turn, archived=True)
    archive.erase_turn(turn.archive_id, 100)
    assert files_with(tmp_path, CANARY) == []

    with archive.writing() as writer:
        writer.set_fact("job", CANARY, 1)
        writer.set_fact("job", "none", 2)
    archive.erase_fact("job")
    assert files_with(tmp_path, CANARY) == []

    keep(archives, a_turn(3, f"another {CANARY}"), archived=True)
    archive.prune(Quota(max_turns=0), 200)
    assert files_with(tmp_path, CANARY) == []


def test_erasing_a_tenant_unlinks_its_words_and_leaves_the_others_bytes_alone(
    archives: SqliteArchives, tmp_path: Path
) -> None:
    fill(archives, "t")
    fill(archives, "u")
    archives.close()
    (others,) = (path for path in tmp_path.rglob("*.db") if path != archives._path_of("t"))
    before = others.read_bytes()

    archives.erase("t", 100)

    assert files_with(tmp_path, CANARY) == [others.name]
    assert others.read_bytes() == before
    assert archives.tenants() == sorted(["t", "u"], key=lambda name: archives._path_of(name).name)


def test_an_erasure_that_a_reader_holds_up_says_so(archives: SqliteArchives) -> None:
    fill(archives)
    # SQLite itself waits for readers; the test does not wait as long.
    with archives.of("t")._file.transaction() as connection:
        connection.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(archives._path_of("t"))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM turns").fetchone()

        with pytest.raises(TimeoutError, match="erase again"):
            archives.of("t").erase_session("s", 100)

    archives.of("t").erase_session("s", 100)


def test_searches_go_on_while_turns_are_erased(archives: SqliteArchives) -> None:
    fill(archives)
    stop, failures = threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            while not stop.is_set():
                search(archives.of("t"), "other", 5)
        except BaseException as error:  # noqa: BLE001  whatever it is, the test shows it
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(1, 6):
            archives.of("t").erase_turn(
                a_turn(number, f"other {number}", session="o").archive_id, 9
            )
    finally:
        stop.set()
        asking.join()

    assert failures == []
    assert len(search(archives.of("t"), "other", 50)) == 24


def test_a_backup_is_a_store_while_others_write(archives: SqliteArchives, tmp_path: Path) -> None:
    keep(archives, a_turn(1, "whale"), archived=True)
    archive = archives.of("t")
    with archive.writing() as writer:
        writer.insert(a_turn(2, "not committed"))
        copy = tmp_path / "copy" / archives._path_of("t").name
        copy.parent.mkdir()
        archive.backup(copy)

    restored = SqliteArchives(copy.parent)
    assert restored.tenants() == ["t"]
    assert [hit.turn.question for hit in search(restored.of("t"), "whale", 5)] == ["whale"]
    assert copy.stat().st_mode & 0o777 == 0o600
    restored.close()


def test_a_file_of_version_1_is_brought_up_to_date_with_its_turns_searchable(
    tmp_path: Path,
) -> None:
    archives = SqliteArchives(tmp_path)
    path = archives._path_of("t")
    version_1 = MIGRATIONS[0]
    assert isinstance(version_1, str)
    with closing(sqlite3.connect(path)) as old, old:
        for statement in version_1.split(";\n"):
            old.execute(statement)
        old.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        old.execute("INSERT INTO schema_version VALUES (1)")
        old.execute("INSERT INTO tenants VALUES ('t')")
        said = '[["user", "the whale"], ["assistant", "sings"]]'
        for row, state in ((1, "archived"), (2, "live")):
            old.execute(
                "INSERT INTO turns VALUES (?, ?, 's', ?, 'd', ?, ?, '', 5, 6, 'w', 0, 1, 1, 5, x'')",
                (row, f"id{row}", row, said, state),
            )

    assert [hit.turn.archive_id for hit in search(archives.of("t"), "whales", 5)] == ["id1"]
    assert archives.of("t").stats().live_turns == 1
    archives.close()


def test_only_the_tenants_that_were_used_last_keep_their_files_open(tmp_path: Path) -> None:
    archives = SqliteArchives(tmp_path, max_open=2)
    held = archives.of("first")
    for tenant in ("first", "second", "third", "fourth"):
        keep(archives, a_turn(1, f"whale {tenant}", tenant=tenant), tenant=tenant, archived=True)

    assert list(archives._open) == ["third", "fourth"]
    assert (held._file._writer, held._file._idle) == (None, [])
    assert [hit.turn.question for hit in search(held, "whale", 5)] == ["whale first"]
    with held.writing() as writer:
        assert writer.newest("s") is not None
    archives.close()
    held.close()


def test_a_store_that_rests_during_its_transaction_closes_behind_it(
    archives: SqliteArchives,
) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        writer.insert(a_turn(1))
        archive.close()

    assert archive._file._writer is None
    assert archive.stats().live_turns == 1
