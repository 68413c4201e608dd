"""How evenly hashing spreads the fleet's turns over partitions, and what a stopped consumer costs.

Tenants have sizes that fall as 1/rank (Zipf); a session's tenant is drawn by
size.  Second by second each partition gets a Poisson number of turns and works
off what it can.  The same seed gives the same run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.fleet.demand import Fleet

Key = Literal["tenant", "tenant and session"]
Shares = npt.NDArray[np.float64]
STOPPED_S, RUN_S = 60, 900


@dataclass(frozen=True, slots=True)
class Spread:
    """One way of hashing, over a number of partitions."""

    key: Key
    partitions: int
    busiest: float
    """Load of the fullest partition over the mean; 1 is even."""
    p99_lag_s: float
    """Seconds of work that wait in the fullest partition, while nothing is wrong."""
    recovered_s: float
    """After the fullest partition's consumer was away for a minute; infinite where it never is."""


def sessions_by_tenant(fleet: Fleet, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """The tenant of every active session."""
    sizes = 1.0 / np.arange(1, fleet.tenants + 1)
    return rng.choice(fleet.tenants, fleet.sessions, p=sizes / sizes.sum()).astype(np.uint64)


def shares(tenants: npt.NDArray[np.uint64], key: Key, partitions: int, seed: int) -> Shares:
    """What part of all turns each partition gets."""
    names = tenants + np.uint64(seed)
    if key == "tenant and session":
        names = _mixed(names) ^ np.arange(len(tenants), dtype=np.uint64)
    counts = np.bincount(
        (_mixed(names) % np.uint64(partitions)).astype(np.int64), minlength=partitions
    )
    return counts.astype(np.float64) / len(tenants)


def spread(
    fleet: Fleet, key: Key, partitions: int, *, headroom: float = 2.0, seed: int = 1
) -> Spread:
    """Simulate; each consumer can do `headroom` times the mean partition's load."""
    rng = np.random.default_rng(seed)
    found = shares(sessions_by_tenant(fleet, rng), key, partitions, seed)
    mean = fleet.turns_s / partitions
    capacity = headroom * mean
    arriving = rng.poisson(fleet.turns_s * float(found.max()), RUN_S).astype(np.float64)
    return Spread(
        key=key,
        partitions=partitions,
        busiest=float(found.max() * partitions),
        p99_lag_s=float(np.quantile(backlog(arriving, capacity), 0.99)) / capacity,
        recovered_s=_recovery(arriving, capacity),
    )


def backlog(arriving: Shares, capacity: float, *, stopped_s: int = 0) -> Shares:
    """Turns that wait at the end of each second; for the first `stopped_s` nothing is done."""
    waiting = np.empty(len(arriving))
    left = 0.0
    for second, turns in enumerate(arriving):
        done = 0.0 if second < stopped_s else capacity
        left = max(0.0, left + float(turns) - done)
        waiting[second] = left
    return waiting


def _recovery(arriving: Shares, capacity: float) -> float:
    waiting = backlog(arriving, capacity, stopped_s=STOPPED_S)
    empty = np.flatnonzero(waiting[STOPPED_S:] == 0.0)
    return float(empty[0] + 1) if len(empty) else float("inf")


def _mixed(names: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A hash of each.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    """
    with np.errstate(over="ignore"):
        z = names + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
