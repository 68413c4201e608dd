"""What 32 clients at once wait longer than with Dynamo's frontend alone, and what a request costs.

Each client asks again a second after its answer, so that the processors, which all
processes share, are not what is measured.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict

from benchmarks.figure import Figure, compare
from benchmarks.gateway_system import Read, System, ask, cpu_s, running
from shepherd_cli.stack import Service

CONCURRENT = 32
REQUESTS_EACH = 3
REQUESTS = CONCURRENT * REQUESTS_EACH
PAUSE_S = 1.0
TOKENS = 16
GOAL_P50_MS = 2.0
GOAL_P99_MS = 10.0
QUESTION = [{"role": "user", "content": "Say something, whatever it is."}]


def figures(rounds: int) -> list[Figure]:
    """See the module."""
    return asyncio.run(_figures(rounds))


async def _figures(rounds: int) -> list[Figure]:
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    async with running("--engine", "fake") as system:
        for service in (system.frontend, system.gateway):
            await _load(system, service, "warm")
        for number in range(rounds):
            direct, spent = await _load(system, system.frontend, f"direct-{number}")
            through, more = await _load(system, system.gateway, f"through-{number}")
            _note(taken, through, direct)
            taken["requests/s a core"].append((REQUESTS / more, REQUESTS / spent))
    return _rows(taken)


async def _load(system: System, service: Service, name: str) -> tuple[list[Read], float]:
    """Answers, and the processor time that the service took for them."""

    async def client(number: int) -> list[Read]:
        answers = []
        await asyncio.sleep(PAUSE_S * number / CONCURRENT)
        for _ in range(REQUESTS_EACH):
            answers.append(
                await ask(
                    *(system, service, QUESTION, f"{name}-{number}"),
                    max_tokens=TOKENS,
                    ignore_eos=True,
                )
            )
            await asyncio.sleep(PAUSE_S)
        return answers

    before = cpu_s(service)
    answers = await asyncio.gather(*(client(number) for number in range(CONCURRENT)))
    return [each for some in answers for each in some], cpu_s(service) - before


def _note(
    taken: dict[str, list[tuple[float, float]]], through: list[Read], direct: list[Read]
) -> None:
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        first = [[each.ttft_s for each in answers] for answers in (through, direct)]
        gaps = [[gap for each in answers for gap in each.gaps_s] for answers in (through, direct)]
        for what, pair in (("TTFT", first), ("gap", gaps)):
            ours, theirs = (_quantile(values, share) * 1000 for values in pair)
            taken[f"{what} {name}"].append((ours, theirs))


def _rows(taken: dict[str, list[tuple[float, float]]]) -> list[Figure]:
    rows = []
    for name, pairs in taken.items():
        ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        if name.startswith("requests"):
            peer = "Dynamo's frontend, for its own part"
            rows.append(compare(name, ours, theirs, peer_name=peer, unit="1/s"))
            continue
        rows.append(compare(name, ours, theirs, peer_name="direct", unit="ms", less_is_better=True))
        allowed = GOAL_P50_MS if name.endswith("p50") else GOAL_P99_MS
        more = [max(a - b, 0.001) for a, b in pairs]
        goal = [allowed] * len(more)
        rows.append(
            compare(
                f"{name} added",
                more,
                goal,
                peer_name="goal",
                unit="ms",
                goal=1.0,
                less_is_better=True,
            )
        )
    return rows


def _quantile(values: list[float], share: float) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
