from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shepherd_events.transports.ack_window import AckWindow, LoggedFrame


def frame(number: int, size: int = 1) -> LoggedFrame:
    return LoggedFrame("kv", bytes(size), f"1:{number}")


def ids(window: AckWindow, at_most: int = 100) -> list[tuple[str, str]]:
    return [(due.after, due.frame.frame_id) for due in window.send(at_most)]


def test_each_frame_says_which_one_it_follows() -> None:
    window = AckWindow(100)
    window.rebase("0:9")
    for number in (1, 2, 3):
        window.add(frame(number))

    assert ids(window, 2) == [("0:9", "1:1"), ("1:1", "1:2")]
    assert ids(window) == [("1:2", "1:3")]
    assert ids(window) == []


def test_what_is_in_flight_is_sent_again_after_a_rewind() -> None:
    window = AckWindow(100)
    for number in (1, 2, 3):
        window.add(frame(number))
    window.send(3)
    window.acknowledge("1:1")
    window.rewind()

    assert ids(window) == [("1:1", "1:2"), ("1:2", "1:3")]


def test_a_full_window_takes_nothing_and_forgets_nothing() -> None:
    window = AckWindow(10)

    assert window.add(frame(1, 6))
    assert not window.add(frame(2, 5))
    assert window.add(frame(3, 4))
    assert ids(window) == [("", "1:1"), ("1:1", "1:3")]


def test_an_end_of_the_log_that_is_nobody_s_changes_nothing() -> None:
    window = AckWindow(10)
    window.add(frame(1))
    window.send(1)

    assert not window.acknowledge("7:7")
    assert (len(window), window.num_bytes, window.log_end) == (1, 1, "")


def test_the_oldest_is_the_first_that_is_not_acknowledged() -> None:
    window = AckWindow(10)
    assert window.oldest_told_ns is None
    for number, told_ns in ((1, 100), (2, 250)):
        window.add(LoggedFrame("kv", b".", f"1:{number}", told_ns))
    window.send(2)

    assert window.oldest_told_ns == 100
    window.acknowledge("1:1")
    assert window.oldest_told_ns == 250
    window.acknowledge("1:2")
    assert window.oldest_told_ns is None


class LogMachine(RuleBasedStateMachine):
    """A log that loses frames and acknowledgements on the way ends with every frame, once, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.window = AckWindow(12)
        self.log: list[str] = []
        self.taken: list[str] = []
        self.told = 0

    @rule(size=st.integers(1, 5))
    def tell(self, size: int) -> None:
        self.told += 1
        if self.window.add(frame(self.told, size)):
            self.taken.append(f"1:{self.told}")

    @rule(at_most=st.integers(1, 4), lost=st.sets(st.integers(0, 3)), acked=st.booleans())
    def send(self, at_most: int, lost: set[int], acked: bool) -> None:
        """The broker's side: a known id is ignored, one that does not follow the end refused."""
        due = self.window.send(at_most)
        for position, item in enumerate(due):
            end = self.log[-1] if self.log else ""
            known = item.frame.frame_id in self.log
            if position not in lost and not known and item.after == end:
                self.log.append(item.frame.frame_id)
        stored = [item for item in due if item.frame.frame_id in self.log]
        if acked and stored:
            self.window.acknowledge(stored[-1].frame.frame_id)
        self.window.rewind()

    @precondition(lambda self: self.log)
    @rule()
    def find_the_end(self) -> None:
        self.window.rewind()
        self.window.acknowledge(self.log[-1])

    @invariant()
    def the_log_and_the_window_together_hold_what_was_taken(self) -> None:
        assert self.log == self.taken[: len(self.log)]
        acknowledged = len(self.taken) - len(self.window)
        assert self.window.log_end == (self.taken[acknowledged - 1] if acknowledged else "")
        assert acknowledged <= len(self.log)

    def teardown(self) -> None:
        """However much was lost, everything arrives in the end."""
        while len(self.window):
            self.send(4, set(), acked=True)
        assert self.log == self.taken


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLog = LogMachine.TestCase
