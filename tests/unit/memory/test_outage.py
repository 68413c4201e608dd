"""Whoever asks a server that is out of reach: one waits for it, the others are told at once."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shepherd_memory.archive.outage import Outage
from shepherd_memory.errors import StoreUnavailableError


class NothingInTimeError(Exception):
    """Of the pool of these tests."""


def fail(outage: Outage) -> None:
    with pytest.raises(NothingInTimeError), outage.trying():
        raise NothingInTimeError


def test_that_connections_are_in_use_is_no_outage() -> None:
    told: list[str] = []
    outage = Outage("db", told.append)
    fail(outage)

    assert (outage.reason, told) == ("", [])
    with outage.trying():
        fail(outage)


def test_a_connection_that_cannot_be_made_matters_to_those_who_get_no_other() -> None:
    told: list[str] = []
    outage = Outage("db", told.append)
    outage.suspect("refused")
    with outage.trying():
        """One of those that are there."""
    fail(outage)
    assert outage.reason == "", "another was had since"

    outage.suspect("refused")
    fail(outage)
    assert (outage.reason, told) == ("refused", ["refused"])


def test_of_those_who_ask_meanwhile_one_tries_and_the_others_are_told_why_not() -> None:
    told: list[str] = []
    outage = Outage("db", told.append)
    outage.begin("no answer for 5 s")

    def ask() -> None:
        with outage.trying():
            refusals.append("none")

    refusals: list[str] = []
    with pytest.raises(NothingInTimeError), outage.trying():
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match="db cannot be used: no answer for 5 s"):
                ask()
        raise NothingInTimeError
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()

    assert refusals == ["none"], "the next one tried again, and reached it"
    assert (outage.reason, told) == ("", ["no answer for 5 s", ""])


class Askers(RuleBasedStateMachine):
    """Callers come, try, succeed and fail in any order; reference: who may be inside."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.outage = Outage("db", self.told.append)
        self.inside: list[tuple[object, bool]] = []
        """Open blocks, and whether each began in an outage."""

    @rule()
    def ask(self) -> None:
        began_out = bool(self.outage.reason)
        is_tried = any(alone for _, alone in self.inside)
        block = self.outage.trying()
        if began_out and is_tried:
            with pytest.raises(StoreUnavailableError):
                block.__enter__()
        else:
            block.__enter__()
            self.inside.append((block, began_out))

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), succeeds=st.booleans())
    def end(self, data: st.DataObject, succeeds: bool) -> None:
        block, _ = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        if succeeds:
            block.__exit__(None, None, None)  # type: ignore[attr-defined]
            assert self.outage.reason == ""
        else:
            error = NothingInTimeError()
            assert not block.__exit__(NothingInTimeError, error, None)  # type: ignore[attr-defined]

    @rule()
    def suspect(self) -> None:
        self.outage.suspect("refused")

    @rule()
    def begin(self) -> None:
        self.outage.begin("silent")
        assert self.outage.reason == "silent"

    @invariant()
    def one_at_a_time_waits_for_a_server_out_of_reach(self) -> None:
        assert sum(alone for _, alone in self.inside) <= 1

    @invariant()
    def each_outage_is_told_once_and_its_end_once(self) -> None:
        assert [bool(each) for each in self.told] == [
            not index % 2 for index in range(len(self.told))
        ]
        assert len(self.told) % 2 == bool(self.outage.reason)


TestAskers = Askers.TestCase
TestAskers.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
