"""Room for loaded blocks is given in order, given back, and never more than there is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from shepherd_worker.engine.connector.budget import Budget

LIMIT = 10


class BudgetMachine(RuleBasedStateMachine):
    """Tasks that take room, give it back or lose patience, in any order."""

    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.budget = Budget(LIMIT)
        self.asked: list[tuple[int, asyncio.Task[bool]]] = []

    @rule(target=tasks, amount=st.integers(0, LIMIT))
    def take(self, amount: int) -> tuple[int, asyncio.Task[bool]]:
        task = self.loop.create_task(self.budget.take(amount))
        self.asked.append((amount, task))
        return amount, task

    @rule(asked=consumes(tasks))
    def give_or_lose_patience(self, asked: tuple[int, asyncio.Task[bool]]) -> None:
        amount, task = asked
        self.asked.remove(asked)
        if task.done():
            self.budget.give(amount)
        else:
            task.cancel()

    def let_run(self) -> None:
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def give_nothing(self) -> None:
        self.budget.give(0)

    @invariant()
    def nothing_is_lost_and_nobody_overtakes(self) -> None:
        self.let_run()
        taken = sum(amount for amount, task in self.asked if task.done())
        assert self.budget.free + taken == LIMIT
        waiting = [amount for amount, task in self.asked if not task.done()]
        assert self.budget.num_waiting == len(waiting)
        assert not waiting or waiting[0] > self.budget.free
        done = [task.done() for _, task in self.asked]
        assert done == sorted(done, reverse=True)

    def teardown(self) -> None:
        self.budget.close()
        self.let_run()
        assert all(task.done() for _, task in self.asked)
        self.loop.close()


BudgetMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestBudget: Any = BudgetMachine.TestCase


async def test_a_wish_that_is_granted_while_it_is_given_up_goes_back() -> None:
    budget = Budget(1)
    assert await budget.take(1)
    waiting = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    budget.give(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert budget.free == 1


async def test_closing_lets_nobody_wait() -> None:
    budget = Budget(1)
    await budget.take(1)
    waiting = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    budget.close()

    assert await waiting is False
    assert await budget.take(1) is False
    assert repr(budget) == "<Budget 0 of 1 free, 0 waiting>"
