"""The system soak's oracle finds what it is there to find, and lets pass what may be."""

from __future__ import annotations

from random import Random

from soak.plan import plan
from soak_system.clients import questions
from soak_system.oracle import HeldNotice, HeldTurn, Oracle, told_twice, untold, was_cut_short
from soak_system.plan import PROCESSES, RECIPES, WIRES


def seen() -> Oracle:
    oracle = Oracle()
    oracle.asks("s", 1, "one?", is_calm=True).answer = "First."
    oracle.asks("s", 2, "two?", is_calm=True).answer = " Second.\n"
    broken = oracle.asks("s", 3, "three?")
    broken.broken, broken.answer = ["Thi"], "Third."
    oracle.asks("s", 4, "four?", is_calm=True)
    return oracle


def held(asked: str, answer: str, ordinal: int, *, is_archived: bool = False) -> HeldTurn:
    return HeldTurn("s", ordinal, f"{asked}{ordinal}", is_archived, asked, answer)


GOOD = [held("one?", "First.", 1), held("two?", "Second.", 2), held("three?", "Third.", 3)]


def test_what_was_said_and_nothing_else_passes() -> None:
    oracle = seen()

    assert oracle.false(GOOD) == []
    assert oracle.missing(GOOD) == []
    assert oracle.repeated(GOOD) == []
    assert oracle.disordered(GOOD) == []


def test_a_lost_turn_is_found() -> None:
    (lost,) = seen().missing(GOOD[1:])

    assert lost.asked == "one?"


def test_only_a_kill_within_moments_of_an_answer_excuses_its_loss() -> None:
    (lost,) = seen().missing(GOOD[1:])
    lost.answered_s = 100.0

    assert was_cut_short(lost, [50.0, 101.0])
    assert not was_cut_short(lost, [99.0, 110.0])


def test_a_changed_word_is_found_twice_as_lost_and_as_never_said() -> None:
    changed = [held("one?", "First!", 1), *GOOD[1:]]

    assert len(seen().missing(changed)) == 1
    assert len(seen().false(changed)) == 1


def test_what_nobody_asked_is_found() -> None:
    assert len(seen().false([*GOOD, held("five?", "Fifth.", 5)])) == 1
    assert len(seen().false([*GOOD, held("four?", "Unseen.", 4)])) == 1


def test_an_attempt_that_nobody_saw_may_be_held_beside_the_one_that_was_seen_and_is_counted() -> (
    None
):
    both = [*GOOD, held("three?", "This one.", 4)]

    assert seen().false(both) == []
    assert seen().repeated(both) == []
    assert seen().disordered(both) == []
    assert seen().unseen(both) == 1
    assert seen().unseen(GOOD) == 0


def test_a_turn_that_is_held_twice_is_found() -> None:
    assert len(seen().repeated([*GOOD, held("two?", "Second.", 7)])) == 1


def test_turns_in_another_order_are_found() -> None:
    assert len(seen().disordered([held("one?", "First.", 2), held("two?", "Second.", 1)])) == 1


def test_an_archived_turn_is_told_of_once() -> None:
    archived = held("one?", "First.", 1, is_archived=True)
    told = HeldNotice("n", (archived.archive_id,))

    assert untold([archived], [told]) == []
    assert len(untold([archived], [])) == 1
    assert told_twice([told]) == []
    assert len(told_twice([told, HeldNotice("m", (archived.archive_id,))])) == 1


def test_a_seed_gives_the_same_faults_and_the_same_words() -> None:
    faults = plan(Random(5), RECIPES, round_s=60.0, faults=200)

    assert faults == plan(Random(5), RECIPES, round_s=60.0, faults=200)
    assert {fault.target for fault in faults} == {*PROCESSES, *WIRES}
    for seed in range(50):
        said = questions(Random(seed))
        assert said == questions(Random(seed))
        assert len(said) == len(set(said))
