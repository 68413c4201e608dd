"""What every archive promises, whatever database it is."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest

from archive_samples import a_notice, a_turn, keep
from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.archive.records import Heard, NoticeState, StoredTurn, TurnState
from shepherd_memory.eviction import Placement
from shepherd_memory.search import search


def asked(
    archives: Archives, query: str, *, tenant: str = "t", session: str | None = None
) -> list[str]:
    hits = search(archives.of(tenant), query, 10, session)
    return [hit.turn.question for hit in hits]


def strangers(*turns: StoredTurn) -> list[StoredTurn]:
    """The turns, each in a conversation of its own, where no neighbour speaks for it."""
    return [replace(turn, session=f"s{number}") for number, turn in enumerate(turns)]


def test_a_turn_comes_back_word_for_word(open_archives: Callable[[], Archives]) -> None:
    turn = a_turn(1, "na\u00efve \U0001f600\n\x00 'quote\" \ud800", "<b>\r\n\t</b>")
    first = open_archives()
    keep(first, turn)
    first.close()

    second = open_archives()

    assert second.of("t").turns("s", after=0, limit=10) == [turn]
    assert list(second.of("t").live_turns()) == [turn]
    second.close()


def test_text_that_no_encoding_knows_can_be_archived(archives: Archives) -> None:
    keep(archives, a_turn(1, "whale \ud800"), archived=True)

    assert asked(archives, "whale") == ["whale \ud800"]


def test_inserting_a_turn_again_changes_nothing(archives: Archives) -> None:
    keep(archives, a_turn(1), archived=True)

    keep(archives, a_turn(1))

    (kept,) = archives.of("t").turns("s", after=0, limit=10)
    assert (kept.state, kept.archived_unix_ns) == (TurnState.ARCHIVED, 99)


def test_a_turn_is_archived_once_and_for_good(archives: Archives) -> None:
    turn = a_turn(1)
    keep(archives, turn)

    with archives.of("t").writing() as writer:
        answers = [writer.archive(turn.archive_id, 50), writer.archive(turn.archive_id, 60)]
        writer.supersede(turn.archive_id)
        writer.place(turn.archive_id, Placement(StreamId("x"), Position(1, 1), 1, array("Q")))

    assert answers == [True, False]
    (kept,) = archives.of("t").turns("s", after=0, limit=10)
    assert (kept.archived_unix_ns, kept.placement) == (50, turn.placement)
    assert list(archives.of("t").live_turns()) == []


def test_archiving_what_is_not_there_says_so(archives: Archives) -> None:
    with archives.of("t").writing() as writer:
        assert not writer.archive("nothing", 1)
        assert writer.turn("nothing") is None
        assert writer.newest("nobody") is None


def test_a_live_turn_can_be_superseded_and_moved(archives: Archives) -> None:
    shorter, longer = a_turn(1, answer="be"), a_turn(1)
    moved = Placement(StreamId("x"), Position(1, 2), 3, array("Q", [5]))
    keep(archives, shorter)

    with archives.of("t").writing() as writer:
        writer.supersede(shorter.archive_id)
        writer.insert(longer)
        writer.place(longer.archive_id, moved)

    (kept,) = archives.of("t").turns("s", after=0, limit=10)
    assert (kept.archive_id, kept.placement) == (longer.archive_id, moved)


def test_what_is_expected_is_told_as_it_is_then_and_nothing_else_changes(
    archives: Archives,
) -> None:
    old, new = a_turn(1), a_turn(2)
    keep(archives, old)

    with archives.of("t").writing() as writer:
        writer.expect([old.archive_id, new.archive_id, "nothing"])
        before = [writer.turn(new.archive_id), writer.newest("s")]
        writer.insert(new)
        writer.archive(old.archive_id, 9)
        writer.expect([old.archive_id, new.archive_id])
        after = [writer.turn(new.archive_id), writer.newest("s"), writer.turn("nothing")]
        archived = writer.turn(old.archive_id)

    assert before == [None, old.archive_id]
    assert after == [new, new.archive_id, None]
    assert archived == replace(old, state=TurnState.ARCHIVED, archived_unix_ns=9)
    assert archives.of("t").turns("s", after=0, limit=9) == [archived, new]


def test_a_failed_transaction_leaves_nothing(archives: Archives) -> None:
    turn = a_turn(1)

    with pytest.raises(ZeroDivisionError), archives.of("t").writing() as writer:
        writer.insert(turn)
        writer.archive(turn.archive_id, 1)
        writer.add_notice(a_notice("n"))
        raise ZeroDivisionError

    assert archives.of("t").session("s") is None
    assert archives.of("t").notices(session=None, state=None, after=0, limit=9) == []
    assert asked(archives, "why because") == []


def test_a_transaction_sees_its_own_writes(archives: Archives) -> None:
    turns = [a_turn(1), a_turn(2), a_turn(3, started=2), a_turn(1, session="other", started=9)]

    with archives.of("t").writing() as writer:
        for turn in turns:
            writer.insert(turn)

        assert writer.session_turns("s") == turns[:3]
        assert writer.turn(turns[1].archive_id) == turns[1]
        assert writer.newest("s") == turns[2].archive_id


def test_the_newest_turn_is_that_of_the_latest_request_whatever_its_number(
    archives: Archives,
) -> None:
    branch = a_turn(2, "edited", started=50)
    keep(archives, a_turn(9, started=9), branch)

    with archives.of("t").writing() as writer:
        assert writer.newest("s") == branch.archive_id


def test_turns_are_paged_by_number_and_a_number_is_never_split(archives: Archives) -> None:
    turns = [a_turn(1), a_turn(2, "x"), a_turn(2, "y", started=3), a_turn(3), a_turn(4)]
    keep(archives, *turns)
    archive = archives.of("t")

    assert archive.turns("s", after=0, limit=2) == turns[:3]
    assert archive.turns("s", after=2, limit=2) == turns[3:]
    assert archive.turns("s", after=4, limit=2) == []


def test_sessions_are_paged_by_name(archives: Archives) -> None:
    keep(archives, a_turn(1, session="b"), a_turn(2, session="b"), archived=True)
    keep(archives, a_turn(3, session="b"), a_turn(1, session="a"), a_turn(1, session="c"))
    archive = archives.of("t")

    assert [each.session for each in archive.sessions(after="", limit=2)] == ["a", "b"]
    assert [each.session for each in archive.sessions(after="b", limit=2)] == ["c"]
    found = archive.session("b")
    assert found is not None
    assert (found.live_turns, found.archived_turns, found.last_unix_ns) == (1, 2, 3)


def test_a_notice_is_written_once_and_pending_until_acknowledged(archives: Archives) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        for name in ("n1", "n2", "n1"):
            writer.add_notice(a_notice(name))
        writer.add_notice(a_notice("n3", session="other"))

    listed = archive.notices(session="s", state=NoticeState.PENDING, after=0, limit=9)
    assert [each.notice for each in listed] == [a_notice("n1"), a_notice("n2")]

    with archive.writing() as writer:
        assert writer.acknowledge("n1") == Heard(created_unix_ns=5, is_first=True)
        assert writer.acknowledge("n1") == Heard(created_unix_ns=5, is_first=False)
        assert writer.acknowledge("nothing") is None
        writer.add_notice(a_notice("n1"))

    pending = archive.notices(session=None, state=NoticeState.PENDING, after=0, limit=9)
    heard = archive.notices(session="s", state=NoticeState.ACKNOWLEDGED, after=0, limit=9)
    assert [each.notice.notice_id for each in pending] == ["n2", "n3"]
    assert [each.notice.notice_id for each in heard] == ["n1"]
    behind = archive.notices(session=None, state=None, after=listed[0].position, limit=1)
    assert [each.notice.notice_id for each in behind] == ["n2"]


def test_only_archived_turns_are_found(archives: Archives) -> None:
    keep(archives, a_turn(1, "live whale"))
    keep(archives, a_turn(2, "archived whale"), archived=True)

    assert asked(archives, "whale") == ["archived whale"]


def test_words_are_found_by_their_stem_without_accents_and_in_any_order(
    archives: Archives,
) -> None:
    keep(archives, a_turn(1, "Which cafés were running?", "None."), archived=True)

    assert asked(archives, "the CAFE runs") == ["Which cafés were running?"]
    assert asked(archives, "cafe\u0301") == ["Which cafés were running?"]


def test_the_better_match_comes_first_and_age_only_breaks_ties(archives: Archives) -> None:
    keep(
        archives,
        *strangers(
            a_turn(1, "whales and whales"),
            a_turn(2, "whales and sharks"),
            a_turn(3, "whales and sharks"),
            a_turn(4, "nothing of it"),
        ),
        archived=True,
    )

    hits = search(archives.of("t"), "whale", 10)

    assert [hit.turn.ordinal for hit in hits] == [1, 3, 2]
    assert hits[0].score > hits[1].score == hits[2].score
    assert [hit.turn.ordinal for hit in search(archives.of("t"), "whale", 1)] == [1]


def test_an_old_turn_that_fits_equally_never_overtakes_a_new_one(archives: Archives) -> None:
    turns = [a_turn(n, "same words", started=n) for n in (3, 1, 2)]
    keep(archives, *strangers(*turns), archived=True)

    assert [hit.turn.ordinal for hit in search(archives.of("t"), "words", 9)] == [3, 2, 1]


def test_a_turn_beside_one_that_fits_is_found_behind_it(archives: Archives) -> None:
    keep(archives, a_turn(1, "whale"), a_turn(2, "yes"), a_turn(9, "far"), archived=True)
    keep(archives, a_turn(2, "elsewhere", session="o"), archived=True)

    assert asked(archives, "whale") == ["whale", "yes", "far"]


def test_a_search_can_be_narrowed_to_a_session(archives: Archives) -> None:
    keep(archives, a_turn(1, "whale one"), a_turn(1, "whale two", session="b"), archived=True)

    assert asked(archives, "whale", session="b") == ["whale two"]
    assert asked(archives, "whale", session="c") == []


@pytest.mark.parametrize(
    "query",
    [
        '"',
        'whale" OR "shark',
        "NEAR(whale shark, 5)",
        "lines:whale",
        "whale*",
        "-whale ^whale (whale",
        "whale AND NOT shark",
        "whale\x00; DROP TABLE turns; --",
        "whale_shark",
        "%' OR 1=1",
    ],
)
def test_no_query_is_syntax(archives: Archives, query: str) -> None:
    keep(archives, a_turn(1, "the whale"), archived=True)

    assert asked(archives, query) == (["the whale"] if "whale" in query else [])


def test_the_longest_query_is_answered(archives: Archives) -> None:
    keep(archives, a_turn(1, "w1"), archived=True)

    assert asked(archives, " ".join(f"w{n}" for n in range(800))) == ["w1"]


def test_nothing_asked_is_nothing_found(archives: Archives) -> None:
    keep(archives, a_turn(1), archived=True)

    assert asked(archives, "") == asked(archives, " ?! ") == []


def test_stop_words_alone_are_still_looked_up(archives: Archives) -> None:
    turns = [a_turn(1, "to be or not to be"), a_turn(2, "something else")]
    keep(archives, *strangers(*turns), archived=True)

    assert asked(archives, "to be or not to be?") == ["to be or not to be"]


@pytest.mark.parametrize("other", ["T", "t1", "t|", "../t", "t/../t", "\u0442", "t\x00"])
def test_tenants_never_see_one_another(archives: Archives, other: str) -> None:
    keep(archives, a_turn(1, "whale"), archived=True)
    before = search(archives.of("t"), "whale", 1)[0].score

    keep(archives, a_turn(1, "whale", tenant=other), tenant=other, archived=True)
    for number in range(2, 12):
        shark = a_turn(number, "shark", tenant=other, session="o")
        keep(archives, shark, tenant=other, archived=True)

    assert search(archives.of("t"), "whale", 1)[0].score == before
    assert asked(archives, "shark") == []
    assert asked(archives, "whale", tenant=other) == ["whale"]
    assert set(archives.tenants()) == {"t", other}


def test_a_reader_does_not_wait_for_an_open_transaction(archives: Archives) -> None:
    archive = archives.of("t")
    keep(archives, a_turn(1), archived=True)

    with archive.writing() as writer:
        writer.insert(a_turn(2))

        assert len(archive.turns("s", after=0, limit=9)) == 1
        assert asked(archives, "why") == ["why"]

    assert len(archive.turns("s", after=0, limit=9)) == 2


def test_closing_twice_is_harmless(open_archives: Callable[[], Archives]) -> None:
    archives = open_archives()
    archive = archives.of("t")

    archive.close()
    archives.close()
    archives.close()
