"""What every archive says of what happened last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from archive_samples import a_notice, a_turn, keep
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.archive.records import NoticeState, SessionSummary
from shepherd_memory.archive.summary import erase_with_summaries, summary_of
from shepherd_memory.search import search
from shepherd_memory.turns import Said


def test_the_sessions_in_which_something_was_said_last_come_first(archives: Archives) -> None:
    keep(archives, a_turn(1, session="old", started=10), a_turn(2, session="old", started=20))
    keep(archives, a_turn(1, session="new", started=30), archived=True)
    keep(archives, *(a_turn(1, session=name, started=25) for name in ("b", "a")))
    with archives.of("t").writing() as writer:
        writer.store_memory("by hand", "is no conversation", 99)

    latest = archives.of("t").latest_sessions(limit=9)

    assert [each.session for each in latest] == ["new", "a", "b", "old"]
    assert latest[0] == SessionSummary("new", 0, 1, 30)
    assert latest[-1] == SessionSummary("old", 2, 0, 20)
    assert archives.of("t").latest_sessions(limit=2) == latest[:2]
    assert archives.of("nobody").latest_sessions(limit=9) == []


def test_the_latest_notices_come_first_and_go_on_ahead_of_a_position(archives: Archives) -> None:
    archive = archives.of("t")
    with archive.writing() as writer:
        for name in ("n1", "n2", "n3"):
            writer.add_notice(a_notice(name))
        writer.add_notice(a_notice("elsewhere", session="other"))
        writer.acknowledge("n2")

    latest = archive.latest_notices(session=None, before=None, limit=9)

    assert [row.notice.notice_id for row in latest] == ["elsewhere", "n3", "n2", "n1"]
    assert [row.state for row in latest][2] is NoticeState.ACKNOWLEDGED
    assert latest == archive.notices(session=None, state=None, after=0, limit=9)[::-1]
    assert archive.latest_notices(session="s", before=None, limit=2) == latest[1:3]
    assert archive.latest_notices(session="s", before=latest[1].position, limit=9) == latest[2:]


def test_what_was_recalled_says_when_it_was_last(open_archives: Callable[[], Archives]) -> None:
    archives = open_archives()
    turns = [a_turn(number) for number in (1, 2, 3)]
    keep(archives, *turns, archived=True)
    first, second, third = (turn.archive_id for turn in turns)
    with archives.of("t").writing() as writer:
        writer.recalled([first, second], 50)
        writer.recalled([second], 70)
    archives.close()

    found = open_archives().of("t").recalled_unix_ns([first, second, third, "unknown"])

    assert found == {first: 50, second: 70}


def test_a_turn_that_was_erased_was_never_recalled(archives: Archives) -> None:
    turn = replace(a_turn(1), started_unix_ns=3)
    keep(archives, turn, archived=True)
    archive = archives.of("t")
    with archive.writing() as writer:
        writer.recalled([turn.archive_id], 50)

    archive.erase_session("s", 60)

    assert archive.recalled_unix_ns([turn.archive_id]) == {}


def test_a_summary_stands_before_all_turns_and_goes_with_any_of_them(archives: Archives) -> None:
    turns = [a_turn(number) for number in (1, 2)]
    summary = summary_of("t", turns, "They spoke of a walrus.")
    keep(archives, *turns, summary, archived=True)
    archive = archives.of("t")

    everything = archive.turns("s", after=-1, limit=9)

    assert [turn.ordinal for turn in everything] == [0, 1, 2]
    assert everything[0].messages == (Said("summary", "They spoke of a walrus."),)
    assert [turn.ordinal for turn in archive.turns("s", after=0, limit=9)] == [1, 2]
    with archive.writing() as writer:
        assert writer.newest("s") == turns[1].archive_id
    assert search(archive, "walrus", 9)[0].turn == everything[0]
    assert erase_with_summaries(archive, turns[0].archive_id, 9).turns == 2
    assert [turn.ordinal for turn in archive.turns("s", after=-1, limit=9)] == [2]


def test_a_summary_can_be_erased_alone(archives: Archives) -> None:
    turns = [a_turn(number) for number in (1, 2, 3, 4)]
    summaries = [summary_of("t", turns[:2], "walrus"), summary_of("t", turns[2:], "seal")]
    keep(archives, *turns, *summaries, archived=True)

    erased = erase_with_summaries(archives.of("t"), summaries[0].archive_id, 9)

    assert erased.turns == 1
    left = archives.of("t").turns("s", after=-1, limit=9)
    assert [turn.ordinal for turn in left] == [0, 1, 2, 3, 4]
    assert left[0].archive_id == summaries[1].archive_id
