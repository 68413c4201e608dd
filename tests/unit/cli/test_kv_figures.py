"""The figures of `shepherd kv top`, and what `shepherd kv diff` calls different."""

from __future__ import annotations

from dataclasses import replace

from shepherd_cli.kv.diff import differences
from shepherd_cli.kv.figures import StreamFigures
from shepherd_cli.kv.top import Row, table
from shepherd_events.events import BlockBatch, Body, Frame, Goodbye, Tier
from shepherd_events.resident_set import ResidentSet
from stream_readers import STREAM, removed, stored, turn

SECOND = 1_000_000_000


def at(second: float, body: Body) -> Frame:
    return Frame(STREAM, 1, 1, round(second * SECOND), body)


def test_rates_are_of_what_was_published_within_the_last_five_seconds() -> None:
    figures = StreamFigures()
    for second in range(100, 110):
        batch = BlockBatch((stored(second, second + 1000), removed(7)))
        figures.add(at(second, batch), now_unix_ns=110 * SECOND, is_live=False)

    assert figures.rates(110 * SECOND) == (2.0, 1.0)
    assert figures.rates(112 * SECOND) == (6 / 5, 3 / 5)
    assert figures.rates(200 * SECOND) == (0.0, 0.0)
    assert not figures._recent


def test_the_hit_rate_is_of_prompt_tokens() -> None:
    figures = StreamFigures()
    assert figures.hit_rate is None
    for cached in (0, 30):
        spoken = replace(turn(1), prompt_tokens=40, cached_tokens=cached)
        figures.add(at(1, spoken), now_unix_ns=SECOND, is_live=False)

    assert (figures.hit_rate, figures.turns) == (30 / 80, 2)


def test_only_frames_that_are_read_live_tell_a_lag() -> None:
    figures = StreamFigures()
    figures.add(at(1, turn(1)), now_unix_ns=90 * SECOND, is_live=False)
    assert figures.lag_s is None
    figures.add(at(90, turn(1)), now_unix_ns=90 * SECOND + SECOND // 4, is_live=True)

    assert figures.lag_s == 0.25


def test_a_goodbye_is_remembered_until_the_worker_speaks_again() -> None:
    figures = StreamFigures()
    figures.add(at(1, Goodbye("done")), now_unix_ns=SECOND, is_live=True)
    assert figures.departed
    figures.add(at(2, turn(1)), now_unix_ns=SECOND, is_live=True)

    assert not figures.departed


def test_a_table_has_a_column_for_every_tier_that_is_used_and_roles_where_there_is_room() -> None:
    row = Row("w", 0, "decode", "live", {"device": 3, "disk": 1}, 1, 2, 0.5, 1, 0.012, 0, 0, 0)
    wide = [str(column.header) for column in table([row], width=120).columns]
    narrow = [str(column.header) for column in table([row], width=80).columns]

    assert wide[:5] == ["worker", "state", "role", "device", "disk"]
    assert narrow == [name for name in wide if name != "role"]


def test_two_sets_differ_by_tier_and_hash() -> None:
    left = ResidentSet([stored(1, 2, 3), stored(4, tier=Tier.HOST)])
    right = ResidentSet([stored(2, 3, 5), stored(4, tier=Tier.HOST)])

    device, host = differences(left, right, frozenset())
    assert (device.tier, device.both) == ("device", 2)
    assert device.only_left == ("0000000000000001",)
    assert device.only_right == ("0000000000000005",)
    assert host.is_equal
    assert differences(left, right, frozenset({Tier.HOST})) == [host]
