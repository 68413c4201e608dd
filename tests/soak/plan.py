"""Which faults happen when: from a seed, so that a run can be had again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong for a while."""

    row: int
    """Of the fault table in docs/kv-events.md."""
    kind: str
    target: str
    at_s: float
    """After the beginning of the round."""
    for_s: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kind of fault, what it can happen to, and how long at most."""

    row: int
    kind: str
    targets: tuple[str, ...]
    at_most_s: float


LIVE = ("live-0", "live-1")
CONTROL = ("control-0", "control-1")
WORKERS = ("zmq", "nats")
READERS = ("steady", "mortal")

_RECIPES = (
    Recipe(1, "lose", LIVE, 2.0),
    Recipe(1, "silence", LIVE, 2.0),
    Recipe(2, "shuffle", LIVE, 2.0),
    Recipe(3, "kill worker", WORKERS, 1.5),
    Recipe(3, "set the clock back", WORKERS, 0.5),
    Recipe(4, "zombie", ("nats",), 1.5),
    Recipe(5, "kill reader", ("mortal",), 1.0),
    Recipe(6, "kill broker", ("broker",), 1.5),
    Recipe(7, "freeze reader", READERS, 3.0),
    Recipe(8, "freeze worker", WORKERS, 2.5),
    Recipe(9, "stall", (*CONTROL, "broker-wire"), 2.5),
    Recipe(9, "deaf", (*CONTROL, "broker-wire"), 2.5),
    Recipe(9, "mute", (*CONTROL, "broker-wire"), 2.5),
    Recipe(9, "cut", (*CONTROL, "broker-wire"), 2.5),
    Recipe(10, "slow reader", READERS, 2.0),
    Recipe(13, "flip", LIVE, 2.0),
    Recipe(13, "nonsense", WORKERS, 0.0),
    Recipe(14, "flood", WORKERS, 0.0),
    Recipe(17, "corrupt", READERS, 0.0),
)

ROWS = frozenset(recipe.row for recipe in _RECIPES)
"""The rows that chance may pick.  Of the others, 11 and 12 come about by themselves: rings and
logs are so small that readers live on snapshots while events go on."""


def plan(
    random: Random, recipes: Sequence[Recipe] = _RECIPES, *, round_s: float, faults: int
) -> list[Fault]:
    """One round's faults, in the order in which they begin; those of one target follow one another."""
    chosen: list[Fault] = []
    free_at: dict[str, float] = {}
    for number in range(faults):
        recipe = random.choice(recipes)
        target = random.choice(recipe.targets)
        at_s = max(number * round_s / faults, free_at.get(target, 0.0))
        for_s = random.uniform(0.2, 1.0) * recipe.at_most_s
        free_at[target] = at_s + for_s + 0.2
        chosen.append(Fault(recipe.row, recipe.kind, target, at_s, for_s))
    return sorted(chosen, key=lambda fault: fault.at_s)
