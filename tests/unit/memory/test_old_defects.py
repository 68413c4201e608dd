"""What keyword memories get wrong: each test fails on the peer of benchmarks/retrieval.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archive_samples import a_turn, keep
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.records import Quota, StoredTurn
from shepherd_memory.search import Question, Searcher, search

DAY_NS = 86_400 * 10**9
NOW = 1_700_000_000 * 10**9


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[SqliteArchives]:
    opened = SqliteArchives(tmp_path / "tenants")
    yield opened
    opened.close()


@pytest.fixture
def peer(tmp_path: Path) -> KeywordMemory:
    return KeywordMemory(tmp_path / "peer.db", lambda: NOW / 1e9)


def asked_on(day: int, question: str, *, session: str, tenant: str = "t") -> StoredTurn:
    return a_turn(1, question, session=session, started=NOW - day * DAY_NS, tenant=tenant)


def test_an_old_turn_does_not_overtake_a_new_one_that_fits_as_well(
    archives: SqliteArchives, peer: KeywordMemory
) -> None:
    old, new = asked_on(900, "the whale", session="old"), asked_on(1, "the whale", session="new")
    peer.archive("t", old)
    # The peer drops the second as a repetition, so it is given another word.
    peer.archive("t", asked_on(1, "that whale", session="new"))
    keep(archives, old, new, archived=True)

    hits = search(archives.of("t"), "latest whale", 2)

    assert [hit.turn.session for hit in hits] == ["new", "old"]
    assert peer.search("t", "whale", 2)[0] == old.archive_id


def test_one_word_of_a_question_is_enough_to_find_something(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "the whale sings"), archived=True)

    hits = search(archives.of("t"), "whale submarine orchestra", 5)

    assert [hit.turn.question for hit in hits] == ["the whale sings"]


def test_the_same_words_of_two_tenants_are_kept_twice(
    archives: SqliteArchives, peer: KeywordMemory
) -> None:
    for tenant in ("t", "u"):
        turn = a_turn(1, "whale", tenant=tenant)
        keep(archives, turn, tenant=tenant, archived=True)
        peer.archive(tenant, turn)

    assert [len(search(archives.of(tenant), "whale", 5)) for tenant in "tu"] == [1, 1]
    assert [len(peer.search(tenant, "whale", 5)) for tenant in "tu"] == [1, 0]


def test_question_and_answer_do_not_run_into_one_another(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "ab", "c"), a_turn(1, "a", "bc"), archived=True)

    assert archives.of("t").stats().archived_turns == 2


def test_a_threshold_leaves_out_what_fits_badly(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "whale"), archived=True)
    badly = Question("whale submarine orchestra violin", min_relevance=0.5)

    assert Searcher().search(archives.of("t"), badly) == []
    assert len(Searcher().search(archives.of("t"), Question("whale", min_relevance=0.5))) == 1


def test_pruning_never_touches_another_tenant(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, tenant="u"), tenant="u", archived=True)
    for number in range(1, 6):
        keep(archives, a_turn(number), archived=True)

    assert archives.of("t").prune(Quota(max_turns=1), NOW).turns == 4
    assert archives.of("u").stats().archived_turns == 1


def test_scores_do_not_tell_what_other_tenants_have(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "whale and shark"), archived=True)
    before = search(archives.of("t"), "whale", 5)

    for number in range(1, 20):
        keep(archives, a_turn(number, "whale", tenant="u"), tenant="u", archived=True)

    assert search(archives.of("t"), "whale", 5) == before


def test_a_search_reads_its_own_tenants_file_alone(archives: SqliteArchives) -> None:
    keep(archives, a_turn(1, "whale"), archived=True)
    keep(archives, a_turn(1, "whale", tenant="u"), tenant="u", archived=True)
    archives.of("u").close()
    others = archives._path_of("u")
    others.write_bytes(b"not a database any more")

    assert len(search(archives.of("t"), "whale", 5)) == 1
