"""The tables of one tenant's file, version by version.

Version 1 indexed whole lines and could not take anything out of the index; in
version 2 the index counts the terms of `analysis`, from a table beside it.
"""

from __future__ import annotations

import json
import sqlite3

from shepherd_memory.analysis import document_terms
from shepherd_memory.archive.sqlite_file import Migration
from shepherd_memory.turns import Said

_VERSION_1 = """CREATE TABLE tenants (tenant TEXT NOT NULL);
CREATE TABLE turns (
    row INTEGER PRIMARY KEY,
    archive_id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    digest TEXT NOT NULL,
    messages TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'archived')),
    request_id TEXT NOT NULL,
    started_unix_ns INTEGER NOT NULL,
    archived_unix_ns INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    dp_rank INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    placed_unix_ns INTEGER NOT NULL,
    block_hashes BLOB NOT NULL
);
CREATE INDEX turns_by_session ON turns (session, ordinal);
CREATE INDEX turns_by_age ON turns (session, started_unix_ns, ordinal, archive_id);
CREATE INDEX live_turns ON turns (row) WHERE state = 'live';
CREATE TABLE notices (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    notice_id TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'acknowledged')),
    turns TEXT NOT NULL,
    archive_ids TEXT NOT NULL,
    topic TEXT NOT NULL,
    text TEXT NOT NULL,
    created_unix_ns INTEGER NOT NULL
);
CREATE INDEX notices_by_session ON notices (session, position);
CREATE VIRTUAL TABLE fts USING fts5 (
    lines, content='', tokenize='porter unicode61 remove_diacritics 2'
)"""

_VERSION_2 = """DROP TABLE fts;
ALTER TABLE turns ADD COLUMN used_unix_ns INTEGER NOT NULL DEFAULT 0;
CREATE TABLE documents (
    doc INTEGER PRIMARY KEY AUTOINCREMENT,
    turn INTEGER NOT NULL UNIQUE,
    num_terms INTEGER NOT NULL,
    terms TEXT NOT NULL
);
CREATE VIRTUAL TABLE fts USING fts5 (
    terms, content='documents', content_rowid='doc', tokenize='ascii'
);
CREATE VIRTUAL TABLE term_counts USING fts5vocab (fts, 'row');
CREATE VIRTUAL TABLE term_places USING fts5vocab (fts, 'instance');
CREATE TABLE vectors (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    doc INTEGER NOT NULL UNIQUE,
    model TEXT NOT NULL,
    vectors BLOB NOT NULL
);
CREATE TABLE facts (
    row INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    folded TEXT NOT NULL,
    value TEXT NOT NULL,
    set_unix_ns INTEGER NOT NULL,
    ended_unix_ns INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX facts_now ON facts (key) WHERE ended_unix_ns = 0;
CREATE INDEX facts_by_fold ON facts (folded) WHERE ended_unix_ns = 0;
CREATE INDEX facts_by_key ON facts (key, row);
CREATE TABLE dead_letters (
    name TEXT PRIMARY KEY,
    session TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    created_unix_ns INTEGER NOT NULL,
    attempts INTEGER NOT NULL
);
CREATE TABLE positions (
    name TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL
);
CREATE TABLE tombstones (
    scope TEXT NOT NULL CHECK (scope IN ('tenant', 'session', 'turn')),
    name TEXT NOT NULL,
    erased_unix_ns INTEGER NOT NULL,
    PRIMARY KEY (scope, name)
) WITHOUT ROWID;
CREATE TABLE generation (generation INTEGER NOT NULL);
INSERT INTO generation VALUES (0)"""


def add_document(
    connection: sqlite3.Connection, turn: int, messages: tuple[Said, ...], started_unix_ns: int
) -> None:
    """Make an archived turn searchable."""
    terms = document_terms(messages, started_unix_ns)
    text = " ".join(terms)
    doc = connection.execute(
        "INSERT INTO documents (turn, num_terms, terms) VALUES (?, ?, ?)", (turn, len(terms), text)
    ).lastrowid
    connection.execute("INSERT INTO fts (rowid, terms) VALUES (?, ?)", (doc, text))


def _to_version_2(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_2.split(";\n"):
        connection.execute(statement)
    archived = "SELECT * FROM turns WHERE state = 'archived' ORDER BY archived_unix_ns, row"
    for row in connection.execute(archived).fetchall():
        said = tuple(Said(role, text) for role, text in json.loads(row["messages"]))
        add_document(connection, row["row"], said, row["started_unix_ns"])


MIGRATIONS: tuple[Migration, ...] = (_VERSION_1, _to_version_2)
