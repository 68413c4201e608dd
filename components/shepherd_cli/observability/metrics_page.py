"""`docs/metrics.md`, made from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shepherd_cli.observability.catalogue import Series

_HEAD = """\
# Metrics

Made by `make observability` from the code; do not edit.

Every process answers `/metrics` in Prometheus's text format. Names are in base units, a counter ends in `_total`, a
histogram has `_bucket`, `_sum` and `_count`. No label grows with sessions, tenants or requests. A worker's `/metrics`
holds Dynamo's own series (`dynamo_...`) as well. How to scrape, see and be told of them: [observe.md](observe.md).
"""
_TITLES = {
    "every process": "Every process",
    "worker": "Worker",
    "memory": "Memory service",
    "gateway": "Gateway",
}


def page(components: Mapping[str, Iterable[Series]]) -> str:
    """The whole page; what all components have comes first, once."""
    by_component = {name: set(series) for name, series in components.items()}
    shared = set.intersection(*by_component.values())
    sections = {"every process": shared}
    sections |= {name: series - shared for name, series in by_component.items()}
    return "\n".join([_HEAD, *(_section(_TITLES[name], each) for name, each in sections.items())])


def _section(title: str, series: Iterable[Series]) -> str:
    rows = [
        f"| `{each.name}` | {each.kind} | {each.unit} | {', '.join(each.labels)} | {each.help} |"
        for each in sorted(series)
    ]
    head = ["| name | type | unit | labels | |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}\n", *head, *rows]) + "\n"
