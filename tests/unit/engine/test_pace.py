from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shepherd_worker.engine.embedded.pace import Pace


def test_who_waits_behind_eight_at_two_a_second_waits_four_seconds() -> None:
    pace = Pace()
    for _ in range(200):
        pace.step(0.5, 1)

    assert pace.seconds_for(8) == 4


def test_an_engine_that_never_worked_asks_for_one_second() -> None:
    assert Pace().seconds_for(1000) == 1


def test_what_was_slow_once_is_forgotten() -> None:
    pace = Pace()
    pace.step(30.0, 1)
    for _ in range(1000):
        pace.step(0.1, 1)

    assert pace.seconds_for(95) == 10


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 64))),
    st.integers(0, 10**6),
)
def test_the_answer_is_between_a_second_and_a_minute(
    steps: list[tuple[float, int]], num_waiting: int
) -> None:
    pace = Pace()
    for seconds, ended in steps:
        pace.step(seconds, ended)

    assert 1 <= pace.seconds_for(num_waiting) <= 60


def test_an_engine_that_ends_nothing_asks_for_more_and_more_patience() -> None:
    pace = Pace()
    waits = []
    for _ in range(3):
        pace.step(2.0, 0)
        waits.append(pace.seconds_for(3))

    assert waits == [6, 12, 16]
