"""What the gateway counts, in a registry of its own.

Base units, no label that grows with sessions, tenants or requests; a model's name
is a label only where the frontend has served it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shepherd_telemetry.reload_metrics import ReloadMetrics

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROUNDS = (0, 1, 2, 3, 4, 6, 8, 16)


class Metrics:
    """Every series of the process; event loop only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reloads = ReloadMetrics(self.registry)
        self.requests = self._counter("requests", "Requests, by route and status.", "route", "code")
        self.duration = self._histogram(
            "request_duration_seconds", "From a request's arrival until its answer's end.", "route"
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "From a request's arrival until the first event of its streamed answer.",
        )
        self.added_latency = self._histogram(
            "added_latency_seconds",
            "From a request's arrival until it is first sent upstream, waiting for the memory included.",
        )
        self.in_progress = Gauge(
            "shepherd_gateway_requests_in_progress",
            "Requests that are served.",
            registry=self.registry,
        )
        self._count_contexts()
        self._count_failures()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _count_contexts(self) -> None:
        self.sessions = Gauge(
            "shepherd_gateway_sessions",
            "Sessions whose NOTICEs' places are remembered.",
            registry=self.registry,
        )
        self.notices = self._counter(
            "notices_inserted", "NOTICEs that were sent for the first time."
        )
        self.renewed = self._counter(
            "contexts_renewed",
            "Requests withdrawn and sent anew since the memory held more than was known.",
        )
        self.dropped_turns = self._counter("turns_dropped", "Archived turns left out of requests.")
        self.trimmed = self._counter(
            "context_trimmed_tokens", "Tokens of the turns that were left out, estimated."
        )
        self.made_room = self._counter(
            "context_overflows", "Prompts that were too long, by what came of it.", "outcome"
        )
        self.tool_calls = self._counter(
            "tool_calls", "Calls of the memory's tools.", "tool", "outcome"
        )
        self.tool_rounds = Histogram(
            "shepherd_gateway_tool_rounds",
            "Times that a request's model was asked again.",
            buckets=_ROUNDS,
            registry=self.registry,
        )
        self.tool_limit = self._counter(
            "tool_limit_reached", "Requests whose last round still called the memory."
        )

    def _count_failures(self) -> None:
        self.memory_failures = self._counter(
            "memory_failures", "Times that the memory did not answer, by what was asked.", "call"
        )
        self.upstream_errors = self._counter(
            "upstream_errors", "Requests that the frontend failed, by reason.", "reason"
        )
        self.upstream_retries = self._counter(
            "upstream_retries", "Requests that were sent again before their first byte."
        )
        self.failures = self._counter("failures", "Requests that failed by a fault of ours.")
        self.disconnects = self._counter(
            "client_disconnects", "Clients that left before their answer's end."
        )
        self.rate_limited = self._counter(
            "rate_limited",
            "Requests refused because there are too many, by what is limited.",
            "scope",
        )
        self.auth_failures = self._counter(
            "auth_failures", "Requests without a valid credential, by reason.", "reason"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"shepherd_gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"shepherd_gateway_{name}", text, labels, buckets=_SECONDS, registry=self.registry
        )
