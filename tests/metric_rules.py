"""Prometheus's naming rules, as `promtool check metrics` and the practices page have them, without promtool."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

ABBREVIATED = {"ms", "us", "ns", "s", "sec", "kb", "mb", "gb", "min", "milliseconds"}
NOT_BASE = {"minutes", "hours", "kilobytes", "megabytes", "gigabytes", "percent", "microseconds"}
TYPES = {"counter", "gauge", "histogram", "summary"}
UNBOUNDED = {"session", "session_id", "tenant", "request", "request_id", "user", "trace_id"}
UNTOUCHED = ("process_", "python_")
NAME = re.compile(r"[a-z][a-z0-9_]*")


def problems(exposition: str, *, prefix: str = "shepherd_") -> list[str]:
    """What is wrong with our part of a scrape; empty when nothing is."""
    seen: dict[str, int] = {}
    found: list[str] = []
    for metric in text_string_to_metric_families(exposition):
        if metric.name.startswith(prefix):
            seen[metric.name] = seen.get(metric.name, 0) + 1
            found += [f"{metric.name}: {what}" for what in _of(metric)]
    found += [f"{name}: told {times} times" for name, times in seen.items() if times > 1]
    counters = re.findall(rf"^# TYPE ({prefix}\S+) counter", exposition, re.MULTILINE)
    found += [f"{name}: a counter ends in _total" for name in counters if name[-6:] != "_total"]
    return found


def _of(metric: Metric) -> Iterator[str]:
    words = metric.name.split("_")
    if not NAME.fullmatch(metric.name):
        yield "a name is snake_case"
    if not metric.documentation.endswith("."):
        yield "its help is a sentence"
    if metric.type != "counter" and words[-1] == "total":
        yield "only a counter ends in _total"
    if metric.type in {"gauge", "counter"} and words[-1] in {"count", "sum", "bucket"}:
        yield "only a histogram has _count, _sum and _bucket"
    if TYPES & set(words):
        yield "a name does not say its type"
    if (ABBREVIATED | NOT_BASE) & set(words):
        yield "units are seconds and bytes, in full"
    labels = {label for sample in metric.samples for label in sample.labels}
    if labels & UNBOUNDED:
        yield f"labels that grow without end: {sorted(labels & UNBOUNDED)}"


def series(exposition: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every series of a scrape by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for metric in text_string_to_metric_families(exposition)
        for sample in metric.samples
    }
