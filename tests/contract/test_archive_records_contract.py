"""What every archive promises of facts, memories, dead letters, positions, erasure and quotas."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from archive_samples import a_notice, a_turn, keep
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.archive.records import (
    DeadLetter,
    Erased,
    Fact,
    Quota,
    StoredNotice,
    StoredVectors,
    TombstoneScope,
)
from shepherd_memory.errors import NoTenantError
from shepherd_memory.search import search


def questions(archives: Archives, session: str = "s", tenant: str = "t") -> list[str]:
    return [turn.question for turn in archives.of(tenant).turns(session, after=-1, limit=999)]


def a_letter(name: str = "w/0 7:8", session: str = "s") -> DeadLetter:
    return DeadLetter(name, session, "cannot be read", b"\x00poison", 5)


def vector(doc: int, *values: float) -> StoredVectors:
    return StoredVectors(doc, array("f", values).tobytes())


def test_no_tenant_is_a_refusal_and_never_all_of_them(archives: Archives) -> None:
    keep(archives, a_turn(1))

    with pytest.raises(NoTenantError, match="no tenant"):
        archives.of("")
    with pytest.raises(NoTenantError):
        archives.erase("", 1)


def test_a_fact_has_one_value_now_and_keeps_its_past(
    open_archives: Callable[[], Archives],
) -> None:
    archives = open_archives()
    with archives.of("t").writing() as writer:
        writer.set_fact("city", "Rome", 10)
        writer.set_fact("city", "Rome", 11)
        writer.set_fact("city", "Oslo", 12)
        writer.set_fact("age", "3", 13)
    archives.close()

    archive = open_archives().of("t")

    assert archive.fact("city") == Fact("city", "Oslo", 12)
    assert archive.facts(after="", limit=9) == [Fact("age", "3", 13), Fact("city", "Oslo", 12)]
    assert archive.facts(after="age", limit=9) == [Fact("city", "Oslo", 12)]
    assert archive.fact_history("city", limit=9) == [
        Fact("city", "Oslo", 12),
        Fact("city", "Rome", 10, 12),
    ]


@pytest.mark.parametrize(
    "asked", ["favouriteColour", "favourite_colour", "Favourite Colour", "FAVOURITECOLOUR"]
)
def test_a_fact_is_found_however_its_key_is_spelt(archives: Archives, asked: str) -> None:
    with archives.of("t").writing() as writer:
        writer.set_fact("favourite_colour", "blue", 1)

    assert archives.of("t").fact(asked) == Fact("favourite_colour", "blue", 1)


def test_the_exact_spelling_comes_before_the_latest_and_that_before_the_others(
    archives: Archives,
) -> None:
    with archives.of("t").writing() as writer:
        writer.set_fact("userName", "first", 1)
        writer.set_fact("user_name", "second", 2)

    archive = archives.of("t")
    assert [fact.value for fact in map(archive.fact, ("userName", "username")) if fact] == [
        "first",
        "second",
    ]


def test_a_cleared_fact_is_gone_but_for_its_past(archives: Archives) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        writer.set_fact("userName", "Ada", 1)

        assert writer.clear_fact("user_name", 2) == "userName"
        assert writer.clear_fact("user_name", 3) is None

    assert archive.fact("userName") is None
    assert archive.fact_history("userName", limit=9) == [Fact("userName", "Ada", 1, 2)]
    assert archive.erase_fact("userName") == Erased(facts=1)
    assert archive.fact_history("userName", limit=9) == []


def test_what_is_stored_by_hand_is_found_once_and_is_no_session(archives: Archives) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        first = writer.store_memory("Where is the spare key?", "Below the fern.", 7)

        assert writer.store_memory("Where is the spare key?", "Below the fern.", 8) == first

    (hit,) = search(archive, "spare key", 5)
    assert (hit.turn.archive_id, hit.turn.started_unix_ns) == (first, 7)
    assert archive.sessions(after="", limit=9) == []
    assert archive.memories(after="", limit=9) == [hit.turn]
    assert archive.memories(after=first, limit=9) == []


def test_a_memory_is_cleared_by_its_exact_question_and_may_be_stored_again(
    archives: Archives,
) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1, "Where?"), archived=True)
    with archive.writing() as writer:
        writer.store_memory("Where?", "Here.", 1)
        writer.store_memory("Where?", "There.", 2)
        writer.store_memory("Where is it?", "Gone.", 3)

        assert writer.clear_memory("where?") == 0
        assert writer.clear_memory("Where?") == 2

    assert [turn.question for turn in archive.memories(after="", limit=9)] == ["Where is it?"]
    assert questions(archives) == ["Where?"]
    (kept,) = archive.memories(after="", limit=9)
    archive.erase_turn(kept.archive_id, 9)
    with archive.writing() as writer:
        writer.store_memory("Where is it?", "Gone.", 10)
    assert len(archive.memories(after="", limit=9)) == 1


def test_a_dead_letter_is_kept_once_and_counts_its_attempts(archives: Archives) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        writer.put_dead_letter(a_letter("b"))
        writer.put_dead_letter(a_letter("a"))
        writer.put_dead_letter(DeadLetter("a", "x", "still not", b"else", 9))

    again = DeadLetter("a", "s", "still not", b"\x00poison", 5, attempts=2)
    assert archive.dead_letters(after="", limit=9) == [again, a_letter("b")]
    assert archive.dead_letters(after="a", limit=9) == [a_letter("b")]
    assert archive.dead_letter("a") == again
    with archive.writing() as writer:
        assert [writer.drop_dead_letter("a"), writer.drop_dead_letter("a")] == [True, False]
    assert archive.dead_letter("a") is None


def test_a_reader_only_moves_forward_and_with_its_transaction(archives: Archives) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        assert writer.position("w1/0") is None
        steps = [Position(1, 5), Position(1, 4), Position(1, 5), Position(2, 1), Position(1, 9)]
        assert [writer.advance("w1/0", step) for step in steps] == [True, False, False, True, False]

    with pytest.raises(ZeroDivisionError), archive.writing() as writer:
        writer.advance("w1/0", Position(9, 9))
        raise ZeroDivisionError

    with archive.writing() as writer:
        assert writer.position("w1/0") == Position(2, 1)


def test_an_erased_session_is_gone_and_no_replay_brings_it_back(archives: Archives) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1, "old whale"), a_turn(2, "whale"), archived=True)
    keep(archives, a_turn(3, "live"), a_turn(1, "other whale", session="o"))
    with archive.writing() as writer:
        writer.archive(a_turn(1, "other whale", session="o").archive_id, 1)
        writer.add_notice(a_notice("n1"))
        writer.add_notice(a_notice("n2", session="o"))
        writer.put_dead_letter(a_letter("a"))
        writer.put_dead_letter(a_letter("b", session="o"))
    (doc, *_) = [each.doc for each in archive.documents(after=0) if each.session == "s"]
    with archive.writing() as writer:
        writer.put_vectors("m", [vector(doc, 1.0)])
    before = archive.generation()

    erased = archive.erase_session("s", 100)

    assert erased == Erased(turns=3, vectors=1, notices=1, dead_letters=1)
    assert archive.generation() != before
    assert archive.session("s") is None
    assert [hit.turn.question for hit in search(archive, "whale", 9)] == ["other whale"]
    late = [a_turn(1, "old whale"), a_turn(3, "grown since"), a_turn(2, "whale", started=200)]
    with archive.writing() as writer:
        assert [writer.insert(turn) for turn in late] == [False, False, False]
        assert writer.insert(a_turn(4, "said afterwards", started=101))
    assert questions(archives) == ["said afterwards"]
    assert [each.notice.notice_id for each in _notices(archives)] == ["n2"]
    assert [each.name for each in archive.dead_letters(after="", limit=9)] == ["b"]


def test_an_erased_turn_takes_its_notices_along_and_stays_away(archives: Archives) -> None:
    archive = archives.of("t")
    turn = a_turn(1)
    keep(archives, turn, a_turn(2), archived=True)
    with archive.writing() as writer:
        writer.add_notice(a_notice("n", archive_ids=("x", turn.archive_id)))
        writer.add_notice(a_notice("other"))

    assert archive.erase_turn(turn.archive_id, 100) == Erased(turns=1, notices=1)
    assert archive.erase_turn("nothing", 100) == Erased()

    with archive.writing() as writer:
        assert not writer.insert(turn)
    assert [each.notice.notice_id for each in _notices(archives)] == ["other"]
    scopes = {(tomb.scope, tomb.name) for tomb in archive.tombstones()}
    assert (TombstoneScope.TURN, turn.archive_id) in scopes


def test_an_erased_tenant_starts_anew_and_the_others_notice_nothing(archives: Archives) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1), a_turn(2), archived=True)
    keep(archives, a_turn(1, tenant="u"), tenant="u", archived=True)
    with archive.writing() as writer:
        writer.set_fact("k", "1", 1)
        writer.set_fact("k", "2", 2)
        writer.put_dead_letter(a_letter())
        writer.add_notice(a_notice("n"))
    generation = archive.generation()

    erased = archives.erase("t", 100)

    assert erased == Erased(turns=2, notices=1, facts=2, dead_letters=1)
    assert archive.generation() != generation
    assert questions(archives) == []
    assert archive.fact("k") is None
    assert search(archive, "why", 9) == []
    with archives.of("t").writing() as writer:
        assert not writer.insert(a_turn(7, "late", started=100))
        assert writer.insert(a_turn(8, "new", started=101))
    assert questions(archives, tenant="u") == ["why"]


def test_a_quota_takes_what_was_of_least_use_and_only_from_its_tenant(archives: Archives) -> None:
    archive = archives.of("t")
    turns = [a_turn(number, f"question {number}") for number in range(1, 6)]
    for turn in turns[:4]:
        with archive.writing() as writer:
            writer.insert(turn)
            writer.archive(turn.archive_id, turn.ordinal)
    keep(archives, turns[4])
    keep(archives, a_turn(1, tenant="u"), tenant="u", archived=True)
    with archive.writing() as writer:
        writer.store_memory("kept", "by hand", 1)
        writer.recalled([turns[0].archive_id, "nothing"], 50)

    assert archive.prune(Quota(max_turns=2), 60) == Erased(turns=2)
    assert questions(archives) == ["question 1", "question 4", "question 5"]
    assert archive.prune(Quota(max_turns=2), 61) == Erased()
    assert archive.prune(Quota(archived_since_unix_ns=5), 62) == Erased(turns=1)
    assert questions(archives) == ["question 1", "question 5"]
    assert archive.prune(Quota(max_bytes=1), 63) == Erased(turns=1)
    assert questions(archives) == ["question 5"]
    assert len(archive.memories(after="", limit=9)) == 1
    assert questions(archives, tenant="u") == ["why"]
    with archive.writing() as writer:
        assert not writer.insert(turns[0])


def test_documents_are_counted_by_term(archives: Archives) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1, "whale whale", "sharks"), a_turn(2, "shark"), archived=True)
    first, second = archive.documents(after=0)

    assert (first.session, first.ordinal, first.num_terms) == ("s", 1, 3)
    assert list(archive.documents(after=first.doc)) == [second]
    assert archive.frequencies(["whale", "shark", "none"]) == {"whale": 1, "shark": 2}
    found = {
        term: dict(zip(docs, occurrences, strict=True))
        for term, docs, occurrences in archive.postings(["whale", "none", "shark"])
    }
    assert found == {"whale": {first.doc: 2}, "shark": {first.doc: 1, second.doc: 1}}
    turns = archive.documents_turns([second.doc, 999])
    assert {doc: turn.question for doc, turn in turns.items()} == {second.doc: "shark"}


def test_vectors_are_those_of_one_model_and_the_rest_is_known(archives: Archives) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1), a_turn(2), archived=True)
    first, second = (each.doc for each in archive.documents(after=0))

    assert [doc for doc, _ in archive.without_vectors("m", after=0, limit=9)] == [first, second]
    assert [doc for doc, _ in archive.without_vectors("m", after=first, limit=9)] == [second]
    with archive.writing() as writer:
        writer.put_vectors("m", [vector(first, 1.0, 2.0), vector(999, 3.0)])

    assert [doc for doc, _ in archive.without_vectors("m", after=0, limit=9)] == [second]
    assert list(archive.vectors("m", after=0)) == [vector(first, 1.0, 2.0)]
    (kept,) = archive.vectors("m", after=0)
    assert list(archive.vectors("m", after=kept.number)) == []
    assert archive.documents_vectors("m", [second, first, first, 999]) == [kept]
    assert archive.documents_vectors("n", [first]) == []
    assert archive.nearest("m", [1.0, 2.0], limit=1) is None, "few are compared one by one"
    with archive.writing() as writer:
        writer.put_vectors("n", [vector(first, 4.0)])
    assert list(archive.vectors("m", after=0)) == []
    assert list(archive.vectors("n", after=0)) == [vector(first, 4.0)]


def test_stats_tell_how_much_there_is(archives: Archives) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1), archived=True)
    keep(archives, a_turn(2), a_turn(1, session="o"))
    with archive.writing() as writer:
        writer.add_notice(a_notice("n"))
        writer.set_fact("k", "v", 1)
        writer.store_memory("q", "a", 1)

    found = archive.stats()

    assert (found.sessions, found.live_turns, found.archived_turns) == (2, 2, 2)
    assert (found.vectors, found.pending_notices, found.facts, found.dead_letters) == (0, 1, 1, 0)


def test_a_backup_never_replaces_a_file(archives: Archives, tmp_path: Path) -> None:
    keep(archives, a_turn(1))
    archives.of("t").backup(tmp_path / "copy")

    with pytest.raises(FileExistsError):
        archives.of("t").backup(tmp_path / "copy")


def _notices(archives: Archives) -> list[StoredNotice]:
    return archives.of("t").notices(session=None, state=None, after=0, limit=99)
