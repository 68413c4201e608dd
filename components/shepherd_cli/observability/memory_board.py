"""The memory service's dashboard."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Board, Panel
from shepherd_cli.observability.queries import now, quantiles, rate, rates
from shepherd_cli.observability.shared_panels import (
    ARCHIVED,
    STREAM_LAG,
)

_M = "shepherd_memory"

MEMORY = Board(
    "shepherd-memory",
    "Shepherd: memory",
    "What was kept, who asked for it, and what is wrong.",
    (
        ARCHIVED,
        Panel(
            "Evicted, not archived yet",
            "Turns within their grace.",
            (now(f"{_M}_turns_in_grace"),),
        ),
        Panel(
            "Not kept",
            "Requests without a session, with hidden tokens, or that could not be rebuilt.",
            rates(
                f"{_M}_turns_anonymous_total",
                f"{_M}_turns_withheld_total",
                f"{_M}_turns_incomplete_total",
            ),
        ),
        Panel(
            "Commit",
            "Time to apply and commit a batch of frames.",
            quantiles(f"{_M}_commit_duration_seconds"),
            "s",
        ),
        Panel(
            "Eviction to archive",
            "From a turn's eviction until it was archived and committed, its grace included.",
            quantiles(f"{_M}_archive_duration_seconds"),
            "s",
        ),
        Panel(
            "Notice to acknowledgement",
            "From a notice's writing until its session was told: when it speaks next.",
            quantiles(f"{_M}_notify_duration_seconds"),
            "s",
        ),
        STREAM_LAG,
        Panel(
            "Store",
            "1 while batches can be committed; failures a second.",
            (now(f"{_M}_store_up"), rate(f"{_M}_store_failures_total")),
        ),
        Panel(
            "Stored",
            "Size on disk of all tenants' archives and of the index of blocks.",
            (now(f"{_M}_stored_bytes", by="store"),),
            "bytes",
        ),
        Panel(
            "Blocks known",
            "Different blocks resident somewhere.",
            (now(f"{_M}_blocks"),),
        ),
        Panel(
            "Set aside",
            "Frames skipped, and completed requests kept as dead letters: must be 0.",
            rates(f"{_M}_poison_frames_total", f"{_M}_dead_letters_total"),
        ),
        Panel(
            "Notices",
            "By what became of them.",
            (rate(f"{_M}_notifications_total", by="outcome"),),
        ),
        Panel(
            "Deliveries",
            "Notices handed to a sink, by outcome; needs a webhook or --notice-events.",
            (rate(f"{_M}_deliveries_total", by="outcome"),),
        ),
        Panel(
            "Searches",
            "A second, by outcome.",
            (rate(f"{_M}_search_requests_total", by="outcome"),),
            "reqps",
        ),
        Panel(
            "Search time",
            "Time to answer a search.",
            quantiles(f"{_M}_search_duration_seconds"),
            "s",
        ),
        Panel("Hits per search", "How many.", quantiles(f"{_M}_search_results")),
        Panel(
            "Tool calls",
            "Memory tools called over HTTP and MCP.",
            (rate(f"{_M}_tool_calls_total", by="tool"),),
        ),
        Panel(
            "Refused",
            "Without a valid credential, by reason.",
            (rate(f"{_M}_auth_failures_total", by="reason"),),
        ),
        Panel(
            "Not allowed",
            "With a credential that lacks something, by what it lacks.",
            (rate(f"{_M}_access_denied_total", by="reason"),),
        ),
        Panel(
            "Asked too often",
            "Requests refused because their tenant asks too often.",
            (rate(f"{_M}_rate_limited_total"),),
        ),
        Panel(
            "Vectors and models",
            "Turns given vectors, and times that a model could not answer.",
            rates(f"{_M}_turns_embedded_total", f"{_M}_model_failures_total"),
        ),
        Panel(
            "Housekeeping",
            "Turns pruned to keep within a quota, turns refused because they had been erased.",
            rates(f"{_M}_turns_pruned_total", f"{_M}_turns_erased_again_total"),
        ),
        Panel(
            "Background work that failed",
            "By work; it is begun again.",
            (rate(f"{_M}_background_failures_total", by="work"),),
        ),
    ),
)
