"""Panels that stand on more than one dashboard."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Panel
from shepherd_cli.observability.queries import quantiles, rate, rates

_W, _S, _M = "shepherd_worker", "shepherd_stream", "shepherd_memory"

REQUESTS = Panel(
    "Requests",
    "Requests a second by how they ended; migrated ones go on at another worker.",
    (rate(f"{_W}_requests_total", by="outcome"),),
    "reqps",
)
FIRST_TOKEN = Panel(
    "Time to first token",
    "From a request's arrival at a worker to its first token.",
    quantiles(f"{_W}_time_to_first_token_seconds"),
    "s",
)
PROMPT_TOKENS = Panel(
    "Prompt tokens by source",
    "Where the KV of prompt tokens came from: all but `computed` was saved work.",
    (rate(f"{_W}_prompt_tokens_total", by="source"),),
)
STREAM_LAG = Panel(
    "Event lag",
    "From a frame's publication until its effects are committed in memory.",
    quantiles(f"{_S}_consumer_lag_seconds"),
    "s",
)
ARCHIVED = Panel(
    "Turns",
    "Turns that were recorded, and those that left the cache and became searchable.",
    rates(f"{_M}_turns_recorded_total", f"{_M}_turns_archived_total"),
)
