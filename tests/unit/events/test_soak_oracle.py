"""The soak's judge finds what it is there to find, and its plan can be had again."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from shepherd_events.resident_set import ResidentSet
from soak.cache_life import CacheLife, Ledger, digest_json, fingerprint
from soak.oracle import NOTICED_WITHIN_S, dishonest, has_converged, wrong
from soak.plan import ROWS, Fault, plan
from soak.report import Report
from stream_readers import stored

SAMPLE: dict[str, Any] = {
    "stream": "soak-zmq/0",
    "state": "live",
    "received": [7, 5],
    "position": [7, 5],
    "digest": [[1, 2, 3]],
    "fingerprint": "abc",
    "now_ns": 100 * 10**9,
}


@pytest.mark.parametrize(
    ("known", "is_wrong"),
    [
        ({"epoch": 7, "digest": [[1, 2, 3]]}, False),
        ({"epoch": 7, "digest": [[1, 2, 4]]}, True),
        ({"epoch": 7, "digest": []}, True),
        ({"epoch": 7, "digest": None}, False),
        ({"epoch": 8, "digest": [[1, 2, 4]]}, False),
    ],
)
def test_another_set_than_the_publisher_had_there_is_found(
    known: dict[str, Any], is_wrong: bool
) -> None:
    assert bool(wrong(SAMPLE, known)) == is_wrong


@pytest.mark.parametrize("state", ["live", "stale", "catching_up"])
@pytest.mark.parametrize("age_s", [None, NOTICED_WITHIN_S - 0.1, NOTICED_WITHIN_S + 0.1])
def test_only_who_says_live_must_have_what_is_old(state: str, age_s: float | None) -> None:
    next_ns = None if age_s is None else SAMPLE["now_ns"] - int(age_s * 1e9)

    sample, known = SAMPLE | {"state": state}, {"next_ns": next_ns}

    is_old = age_s is not None and age_s > NOTICED_WITHIN_S
    assert bool(dishonest(sample, sample, known)) == (state == "live" and is_old)
    assert not dishonest(sample | {"received": [7, 4]}, sample, known), "it gets on"
    assert not dishonest(None, sample, known)


@pytest.mark.parametrize(
    ("change", "converged"),
    [
        ({}, True),
        ({"state": "catching_up"}, False),
        ({"position": [7, 4]}, False),
        ({"fingerprint": "abd"}, False),
    ],
)
def test_convergence_is_state_position_and_blocks(change: dict[str, Any], converged: bool) -> None:
    truth = {"position": [7, 5], "fingerprint": "abc"}

    assert has_converged(SAMPLE | change, truth) == converged


def test_a_seed_gives_the_same_faults_again_and_another_seed_gives_others() -> None:
    def rounds(seed: int) -> list[list[Fault]]:
        random = Random(seed)
        return [plan(random, round_s=12.0, faults=10) for _ in range(3)]

    assert rounds(1) == rounds(1)
    assert rounds(1) != rounds(2)


def test_in_time_every_row_comes_and_faults_of_one_target_never_overlap() -> None:
    random, rows = Random(3), set()
    for _ in range(100):
        faults = plan(random, round_s=12.0, faults=10)
        rows |= {fault.row for fault in faults}
        by_target: defaultdict[str, list[Fault]] = defaultdict(list)
        for fault in faults:
            by_target[fault.target].append(fault)
        for each in by_target.values():
            for before, after in pairwise(each):
                assert before.at_s + before.for_s < after.at_s

    assert rows == ROWS


def test_what_went_on_growing_is_found_and_what_levelled_off_is_not() -> None:
    report = Report(seed=1)
    for number in range(12):
        report.resources.note("steady", 1, rss=(100 + 10 * number) << 20, fds=10 + number % 2)
        report.resources.note("mortal", 2, rss=(100 + 10 * min(number, 4)) << 20, tasks=number)

    assert sorted(problem.split(" grew")[0] for problem in report.resources.grown()) == [
        "not flat: steady 1 rss"
    ]
    report.resources.note("mortal", 2, tasks=40)
    assert len(report.resources.grown()) == 2


def test_a_ledger_knows_what_was_resident_at_each_number_and_when_it_began() -> None:
    life, ledger, held = CacheLife(Random(5)), Ledger(7, now_ns=1), ResidentSet()
    digests = {}
    for number in range(2, 3000):
        for event in life.step():
            held.apply(event)
        ledger.note(number // 2 + 1, digest_json(life.truth.digest()), now_ns=number)
        digests[number // 2 + 1] = digest_json(held.digest())

    assert {seq: ledger.at(seq) for seq in digests} == digests
    assert ledger.born_ns(11) == 20
    assert (ledger.at(1), ledger.at(10**6)) == ([], None)
    assert fingerprint(held) == fingerprint(life.truth)
    held.apply(stored(4))
    assert fingerprint(held) != fingerprint(life.truth)
