"""Taking turns out of a tenant's file, with everything that repeats their words.

Deleting rows is not enough: FTS5 keeps deleted words in its segments until they
are merged, pages keep what stood on them, the log keeps the pages.  So the
index is optimised here, and the file is scrubbed after the transaction.

Source: https://www.sqlite.org/fts5.html#the_optimize_command
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable

from shepherd_memory.archive.records import Erased, Quota

_DOOMED = "SELECT name FROM doomed"


def session_name(session: str) -> str:
    """What a tombstone calls a session, which is forgotten as well."""
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()


def doom(connection: sqlite3.Connection, archive_ids: Iterable[str]) -> None:
    """Choose the turns that `remove_doomed` removes."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (name TEXT PRIMARY KEY)")
    connection.execute("DELETE FROM doomed")
    connection.executemany("INSERT INTO doomed VALUES (?)", [(each,) for each in archive_ids])


def remove_doomed(connection: sqlite3.Connection) -> Erased:
    """Remove the chosen turns from every table; in a transaction."""
    docs = f"""SELECT doc FROM documents JOIN turns ON turns.row = documents.turn
        WHERE archive_id IN ({_DOOMED})"""  # noqa: S608  constants only
    connection.execute(
        f"""INSERT INTO fts (fts, rowid, terms)
        SELECT 'delete', doc, terms FROM documents WHERE doc IN ({docs})"""  # noqa: S608  constants only
    )
    removed = Erased(
        vectors=_delete(connection, f"vectors WHERE doc IN ({docs})"),
        notices=_delete(
            connection,
            f"""notices WHERE EXISTS (SELECT 1 FROM json_each(notices.archive_ids)
            WHERE value IN ({_DOOMED}))""",  # noqa: S608  constants only
        ),
    )
    _delete(connection, f"documents WHERE doc IN ({docs})")
    turns = _delete(connection, f"turns WHERE archive_id IN ({_DOOMED})")
    connection.execute("UPDATE generation SET generation = generation + 1")
    return removed + Erased(turns=turns)


def bury(connection: sqlite3.Connection, now_unix_ns: int) -> None:
    """Leave a tombstone for each of the chosen turns."""
    connection.execute(
        f"INSERT OR REPLACE INTO tombstones SELECT 'turn', name, ? FROM ({_DOOMED})",  # noqa: S608  constants only
        (now_unix_ns,),
    )


def erase_session(connection: sqlite3.Connection, session: str, now_unix_ns: int) -> Erased:
    """Everything of a conversation; in a transaction."""
    rows = connection.execute("SELECT archive_id FROM turns WHERE session = ?", (session,))
    doom(connection, [row[0] for row in rows])
    bury(connection, now_unix_ns)
    connection.execute(
        "INSERT OR REPLACE INTO tombstones VALUES ('session', ?, ?)",
        (session_name(session), now_unix_ns),
    )
    return remove_doomed(connection) + Erased(
        notices=_delete(connection, "notices WHERE session = ?", session),
        dead_letters=_delete(connection, "dead_letters WHERE session = ?", session),
    )


def beyond(connection: sqlite3.Connection, quota: Quota) -> list[str]:
    """The turns that do not fit into a quota, those that were of use last kept longest."""
    heard = "max(archived_unix_ns, used_unix_ns)"
    rows = connection.execute(
        f"""SELECT archive_id FROM (
            SELECT archive_id, {heard} AS heard,
                row_number() OVER latest AS turns,
                sum(length(messages)) OVER latest AS bytes
            FROM turns WHERE state = 'archived' AND session <> ''
            WINDOW latest AS (ORDER BY {heard} DESC, row DESC))
        WHERE turns > :turns OR bytes > :bytes OR heard < :since""",  # noqa: S608  constants only
        {
            "turns": _or_boundless(quota.max_turns),
            "bytes": _or_boundless(quota.max_bytes),
            "since": quota.archived_since_unix_ns or 0,
        },
    )
    return [row[0] for row in rows]


def optimise_index(connection: sqlite3.Connection) -> None:
    """Merge the index's segments, which drops deleted words; in a transaction."""
    connection.execute("INSERT INTO fts (fts) VALUES ('optimize')")


def _or_boundless(limit: int | None) -> int:
    return 2**63 - 1 if limit is None else limit


def _delete(connection: sqlite3.Connection, what: str, *values: object) -> int:
    return connection.execute(f"DELETE FROM {what}", values).rowcount  # noqa: S608  constants only
