"""The event stream's dashboard."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Board, Panel
from shepherd_cli.observability.queries import now, rate, rates
from shepherd_cli.observability.shared_panels import (
    STREAM_LAG,
)

_S, _R, _M = "shepherd_stream", "shepherd_stream_reader", "shepherd_memory"

STREAM = Board(
    "shepherd-stream",
    "Shepherd: event stream",
    "What the caches tell, and what became of it at its readers.",
    (
        Panel("Frames published", "By worker.", (rate(f"{_S}_frames_published_total"),)),
        Panel(
            "Events published", "Block events and turns.", (rate(f"{_S}_events_published_total"),)
        ),
        Panel("Bytes published", "Of frames.", (rate(f"{_S}_published_bytes_total"),), "Bps"),
        Panel(
            "Lost at the publisher",
            "Events dropped from a full queue, gaps it declared, frames the transport refused.",
            rates(
                f"{_S}_events_dropped_total",
                f"{_S}_tombstones_total",
                f"{_S}_publish_failures_total",
            ),
        ),
        Panel(
            "Outbox",
            "Frames that wait at the publishers, with a broker until it has acknowledged them.",
            (now(f"{_S}_outbox_frames"),),
        ),
        Panel(
            "Outbox, bytes",
            "Their size; what waits in the engine's process is lost with it.",
            (now(f"{_S}_outbox_bytes"),),
            "bytes",
        ),
        Panel(
            "Outbox, oldest",
            "How long the first of them has waited.",
            (now(f"{_S}_outbox_oldest_age_seconds"),),
            "s",
        ),
        Panel(
            "Repairs served",
            "Replay pages and snapshots that publishers sent.",
            rates(f"{_S}_replays_total", f"{_S}_snapshots_total"),
        ),
        Panel(
            "Turned away",
            "Readers without the right key, control requests that made no sense.",
            rates(f"{_S}_readers_refused_total", f"{_S}_requests_refused_total"),
        ),
        Panel(
            "Frames received",
            "By kind of body.",
            (rate(f"{_S}_events_received_total", by="type"),),
        ),
        STREAM_LAG,
        Panel(
            "Waiting to be applied",
            "Frames received that memory has not committed yet.",
            (now(f"{_M}_backlog"),),
        ),
        Panel(
            "Gaps and what closed them",
            "Frames found missing; replay pages and snapshots that were received.",
            rates(f"{_R}_gaps_total", f"{_R}_replays_total", f"{_R}_snapshots_total"),
        ),
        Panel(
            "Duplicates",
            "Frames that came again and were dropped; a restart brings some.",
            (
                rate(f"{_R}_duplicates_total"),
                rate(f"{_S}_duplicates_total"),
            ),
        ),
        Panel(
            "Damaged and unreadable",
            "Payloads that were no frame, and those with a wrong checksum.",
            rates(
                f"{_R}_decode_errors_total", f"{_R}_corrupt_total", f"{_R}_failed_requests_total"
            ),
        ),
        Panel(
            "Digests compared",
            "Heartbeats checked against what is held, and those that differed.",
            rates(f"{_R}_digest_checks_total", f"{_R}_digest_mismatches_total"),
        ),
        Panel(
            "States replaced",
            "A stream's state replaced as a whole, by cause.",
            (rate(f"{_S}_resets_total", by="reason"),),
        ),
        Panel(
            "Reading begun again",
            "Times that reading a stream failed.",
            (rate(f"{_S}_failures_total"),),
        ),
        Panel(
            "In vLLM's form",
            "Block events for readers of vLLM's format; needs an endpoint in vLLM's form.",
            rates(f"{_S}_msgpack_events_total", f"{_S}_msgpack_events_dropped_total"),
        ),
    ),
)
