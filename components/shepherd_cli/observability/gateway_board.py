"""The gateway's dashboard."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Board, Panel
from shepherd_cli.observability.queries import now, quantiles, rate, rates

_G = "shepherd_gateway"

GATEWAY = Board(
    "shepherd-gateway",
    "Shepherd: gateway",
    "Conversations that go on though the cache forgets.",
    (
        Panel(
            "Requests",
            "A second, by status.",
            (rate(f"{_G}_requests_total", by="code"),),
            "reqps",
        ),
        Panel(
            "Request duration",
            "From a request's arrival until its answer's end.",
            quantiles(f"{_G}_request_duration_seconds"),
            "s",
        ),
        Panel(
            "Time to first token",
            "Of streamed answers.",
            quantiles(f"{_G}_time_to_first_token_seconds"),
            "s",
        ),
        Panel(
            "Added latency",
            "From arrival until the request is sent upstream, the memory's answers included.",
            quantiles(f"{_G}_added_latency_seconds"),
            "s",
        ),
        Panel("In progress", "Requests that are served.", (now(f"{_G}_requests_in_progress"),)),
        Panel(
            "Sessions",
            "Those whose NOTICEs' places are remembered.",
            (now(f"{_G}_sessions"),),
        ),
        Panel(
            "Turns dropped, NOTICEs sent",
            "Archived turns left out of requests, and NOTICEs sent for the first time.",
            rates(f"{_G}_turns_dropped_total", f"{_G}_notices_inserted_total"),
        ),
        Panel(
            "Tokens left out",
            "Of the turns that were left out, estimated, a second.",
            (rate(f"{_G}_context_trimmed_tokens_total"),),
        ),
        Panel(
            "Prompts that were too long",
            "By what came of it.",
            (rate(f"{_G}_context_overflows_total", by="outcome"),),
        ),
        Panel(
            "Tool calls",
            "Calls of the memory's tools by models, by outcome.",
            (rate(f"{_G}_tool_calls_total", by="outcome"),),
        ),
        Panel("Tool rounds", "Times that a model was asked again.", quantiles(f"{_G}_tool_rounds")),
        Panel(
            "Memory did not answer",
            "By what was asked; the chat goes on without recall.",
            (rate(f"{_G}_memory_failures_total", by="call"),),
        ),
        Panel(
            "Frontend failed",
            "By reason.",
            (rate(f"{_G}_upstream_errors_total", by="reason"),),
        ),
        Panel(
            "Sent again, left, failed",
            "Requests sent again before their first byte, clients that left, faults of ours.",
            rates(
                f"{_G}_upstream_retries_total",
                f"{_G}_client_disconnects_total",
                f"{_G}_failures_total",
            ),
        ),
        Panel(
            "Too many",
            "Requests refused, by what is limited.",
            (rate(f"{_G}_rate_limited_total", by="scope"),),
        ),
        Panel(
            "Callers turned away",
            "Requests without a valid credential, by reason.",
            (rate(f"{_G}_auth_failures_total", by="reason"),),
        ),
    ),
)
