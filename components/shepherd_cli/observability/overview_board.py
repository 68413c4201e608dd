"""The first dashboard: what an operator asks before anything else."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Board, Panel, Query
from shepherd_cli.observability.queries import now, rate, rates
from shepherd_cli.observability.shared_panels import (
    ARCHIVED,
    FIRST_TOKEN,
    PROMPT_TOKENS,
    REQUESTS,
    STREAM_LAG,
)

_W, _S, _R, _M = "shepherd_worker", "shepherd_stream", "shepherd_stream_reader", "shepherd_memory"
_IN_USE = (
    f'sum by (instance) ({_W}_kv_blocks{{instance=~"$instance", state!="empty"}})'
    f' / clamp_min(sum by (instance) ({_W}_kv_blocks{{instance=~"$instance"}}), 1)'
)
_UP = 'shepherd_ready{instance=~"$instance"} * on (instance, job) group_left (component) shepherd_build_info'
_LATE = 'histogram_quantile(0.99, sum by (le, instance) (rate(shepherd_event_loop_lag_seconds_bucket{instance=~"$instance"}[$__rate_interval])))'


OVERVIEW = Board(
    "shepherd-overview",
    "Shepherd: overview",
    "Is it up, is it fast, is anything lost?",
    (
        Panel(
            "Ready",
            "1 for each process that wants work.",
            (Query(_UP, "{{component}} {{instance}}"),),
        ),
        REQUESTS,
        FIRST_TOKEN,
        Panel(
            "Generated tokens",
            "Tokens a second, by worker.",
            (rate(f"{_W}_generated_tokens_total"),),
        ),
        PROMPT_TOKENS,
        Panel(
            "KV cache in use",
            "Device blocks that hold something, of all; full is normal, as it is a cache.",
            (Query(_IN_USE, "{{instance}}"),),
            "percentunit",
        ),
        ARCHIVED,
        STREAM_LAG,
        Panel(
            "Lost",
            "Must be 0: events dropped, digests that differ, frames that were skipped, dead letters.",
            rates(
                f"{_S}_events_dropped_total",
                f"{_R}_digest_mismatches_total",
                f"{_M}_poison_frames_total",
                f"{_M}_dead_letters_total",
            ),
        ),
        Panel(
            "Warnings and errors",
            "Log messages a second; Dynamo's own are not counted.",
            (
                rate("shepherd_log_messages_total", level="warning"),
                rate("shepherd_log_messages_total", level="error"),
            ),
        ),
        Panel(
            "Credentials",
            "1 where the files with keys could be read when they last changed.",
            (now("shepherd_config_last_reload_successful"),),
        ),
        Panel(
            "Event loop lag",
            "99th percentile of how late each process's event loop wakes up.",
            (Query(_LATE, "{{instance}}"),),
            "s",
        ),
        Panel(
            "Memory of processes",
            "Resident set of each process.",
            (now("process_resident_memory_bytes"),),
            "bytes",
        ),
    ),
)
