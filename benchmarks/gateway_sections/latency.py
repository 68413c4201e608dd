"""What 32 clients at once wait longer than with Dynamo's frontend alone, and what a request costs.

Each client asks again a second after its answer, so that the processors, which all
processes share, are not what is measured.  Three ways take turns in every round: the
frontend alone; the frontend alone with what the gateway adds to a request, so that a
longer prompt is told apart from the gateway; and through the gateway.  What a request
takes of the processors says how much of the rest is waiting for one.  The clients
acknowledge at once, so that no figure is owed to the frontend's 40 ms; one client that
does not, and asks again at once, is told apart.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figure import Figure, compare
from benchmarks.gateway_system import Read, System, ask, cpu_s, offered_tools, running
from shepherd_cli.stack import Service

CONCURRENT = 32
REQUESTS_EACH = 3
REQUESTS = CONCURRENT * REQUESTS_EACH
PAUSE_S = 1.0
TOKENS = 16
IN_TURN = 20
GOAL_P50_MS = 2.0
GOAL_P99_MS = 10.0
QUESTION = [{"role": "user", "content": "Say something, whatever it is."}]
SHARES = (("p50", 0.5, GOAL_P50_MS), ("p99", 0.99, GOAL_P99_MS))


@dataclass(frozen=True, slots=True)
class Load:
    """What came of all clients' requests one way."""

    answers: list[Read]
    gateway_ms: float
    """Processor time a request, of each process."""
    frontend_ms: float
    memory_ms: float

    @property
    def first_ms(self) -> list[float]:
        """Times to the first token."""
        return [each.ttft_s * 1000 for each in self.answers]

    @property
    def gaps_ms(self) -> list[float]:
        """Times between tokens."""
        return [gap * 1000 for each in self.answers for gap in each.gaps_s]


def figures(rounds: int) -> list[Figure]:
    """See the module."""
    return asyncio.run(_figures(rounds))


async def _figures(rounds: int) -> list[Figure]:
    taken: dict[str, list[Load]] = defaultdict(list)
    alone: dict[str, list[float]] = defaultdict(list)
    async with running("--engine", "fake") as system:
        tools = await offered_tools(system)
        same = {"tools": tools, "stream_options": {"include_usage": True}}
        ways: tuple[tuple[str, Service, dict[str, Any]], ...] = (
            ("direct", system.frontend, {}),
            ("same request", system.frontend, same),
            ("through", system.gateway, {}),
        )
        for number in range(-1, rounds):
            for name, service, more in ways:
                load = await _load(system, service, f"{name}-{number}".replace(" ", "-"), more)
                if number < 0:
                    continue  # the first one warms up
                taken[name].append(load)
                alone[name].append(await _in_turn(system, service, f"alone-{name}-{number}", more))
    return [*_waited(taken), *_spent(taken), _one_client(alone)]


async def _load(system: System, service: Service, name: str, more: dict[str, Any]) -> Load:
    async def client(number: int) -> list[Read]:
        answers = []
        await asyncio.sleep(PAUSE_S * number / CONCURRENT)
        for _ in range(REQUESTS_EACH):
            answers.append(
                await ask(
                    *(system, service, QUESTION, f"{name}-{number}"),
                    max_tokens=TOKENS,
                    ignore_eos=True,
                    **more,
                )
            )
            await asyncio.sleep(PAUSE_S)
        return answers

    processes = (system.gateway, system.frontend, system.memory)
    before = [cpu_s(each) for each in processes]
    answers = await asyncio.gather(*(client(number) for number in range(CONCURRENT)))
    spent = [cpu_s(each) - was for each, was in zip(processes, before, strict=True)]
    return Load(
        [each for some in answers for each in some],
        *(each * 1000 / REQUESTS for each in spent),
    )


async def _in_turn(system: System, service: Service, name: str, more: dict[str, Any]) -> float:
    """Milliseconds to the first token, median, of a usual client that asks again at once."""
    return statistics.median(
        [
            (
                await ask(
                    *(system, service, QUESTION, f"{name}-{number}".replace(" ", "-")),
                    acknowledges=False,
                    max_tokens=TOKENS,
                    ignore_eos=True,
                    **more,
                )
            ).ttft_s
            * 1000
            for number in range(IN_TURN)
        ]
    )


def _one_client(alone: dict[str, list[float]]) -> Figure:
    return compare(
        *("TTFT p50, usual client at once again", alone["through"], alone["direct"]),
        peer_name="direct",
        unit="ms",
        less_is_better=True,
    )


def _waited(taken: dict[str, list[Load]]) -> list[Figure]:
    rows = []
    through = taken["through"]
    for peer in ("direct", "same request"):
        for what in ("first", "gaps"):
            for share_name, share, allowed in SHARES:
                ours = [_quantile(getattr(load, f"{what}_ms"), share) for load in through]
                theirs = [_quantile(getattr(load, f"{what}_ms"), share) for load in taken[peer]]
                name = f"{'TTFT' if what == 'first' else 'gap'} {share_name}"
                rows.append(
                    compare(name, ours, theirs, peer_name=peer, unit="ms", less_is_better=True)
                )
                rows.append(_added(f"{name} over {peer}", ours, theirs, allowed))
    return rows


def _added(name: str, ours: Sequence[float], theirs: Sequence[float], allowed: float) -> Figure:
    more = [max(a - b, 0.001) for a, b in zip(ours, theirs, strict=True)]
    return compare(
        *(name, more, [allowed] * len(more)),
        peer_name="goal",
        unit="ms",
        goal=1.0,
        less_is_better=True,
    )


def _spent(taken: dict[str, list[Load]]) -> list[Figure]:
    through, direct = taken["through"], taken["direct"]
    ours = [load.gateway_ms for load in through]
    theirs = [load.frontend_ms for load in direct]
    peer = "Dynamo's frontend, for its own part"
    return [
        compare(
            *("gateway's CPU a request", ours, theirs),
            peer_name=peer,
            unit="ms",
            less_is_better=True,
        ),
        compare(
            *("requests/s a core", [1000 / each for each in ours], [1000 / x for x in theirs]),
            peer_name=peer,
            unit="1/s",
        ),
        compare(
            "memory's CPU a request",
            [load.memory_ms for load in through],
            [load.memory_ms for load in direct],
            peer_name="direct, which archives as well",
            unit="ms",
            less_is_better=True,
        ),
    ]


def _quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
