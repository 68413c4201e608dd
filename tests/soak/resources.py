"""What living processes use after each round, and whether it goes on growing."""

from __future__ import annotations

from collections import defaultdict

_RSS_SLACK = 12 << 20


class Resources:
    """Amounts by process; one that was started anew is another one."""

    def __init__(self, *, min_rounds: int = 4, count_slack: int = 8) -> None:
        """Processes that lived through fewer rounds are not judged; half of them is warming up."""
        self._min_rounds = min_rounds
        self._count_slack = count_slack
        self._series: defaultdict[str, list[int]] = defaultdict(list)

    def note(self, process: str, pid: int, **amounts: int) -> None:
        """What a process uses, everything being quiet."""
        for name, amount in amounts.items():
            self._series[f"{process} {pid} {name}"].append(amount)

    def grown(self) -> list[str]:
        """What went on growing, of processes that lived long enough."""
        found = []
        for name, series in self._series.items():
            if len(series) < self._min_rounds:
                continue
            first, last = max(series[1 : len(series) // 2 + 1]), max(series[-(len(series) // 4) :])
            limit = 1.1 * first + _RSS_SLACK if name.endswith("rss") else first + self._count_slack
            if last > limit:
                found.append(f"not flat: {name} grew from {first} to {last}")
        return found

    def to_json(self) -> dict[str, dict[str, int]]:
        """The first and last amount of each that was judged."""
        return {
            name: {"first": series[0], "last": series[-1], "rounds": len(series)}
            for name, series in sorted(self._series.items())
            if len(series) >= self._min_rounds
        }
