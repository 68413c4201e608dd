"""The worker's Prometheus metrics.

Requests are observed as they pass; `engine_metrics.py` reads everything else when
somebody scrapes.  Labels never carry a session, tenant or
request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shepherd_worker.errors import DrainDeadlineError, InvalidRequestError, OverloadedError
from shepherd_worker.health import Phase

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class RequestMetrics:
    """How requests went, as the client would see it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "shepherd_worker_requests",
            "Requests by how they ended.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("ok", "cancelled", "rejected", "migrated", "error"):
            self.requests.labels(outcome)
        self._canaries = Counter(
            "shepherd_worker_canaries",
            "Dynamo's own probes of the worker by how they ended; no other series counts them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("ok", "failed"):
            self._canaries.labels(outcome)
        self.running = Gauge(
            "shepherd_worker_requests_in_progress",
            "Requests that were admitted and have not ended.",
            registry=registry,
        )
        self.first_token = Histogram(
            "shepherd_worker_time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.next_token = Histogram(
            "shepherd_worker_inter_chunk_seconds",
            "Seconds between the chunks of one request.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "shepherd_worker_request_duration_seconds",
            "Seconds from a request's arrival to its end.",
            buckets=_SECONDS,
            registry=registry,
        )

    @contextmanager
    def canary(self) -> Iterator[ObservedCanary]:
        """Observe one of Dynamo's probes; one that it gave up waiting for has failed too."""
        observed = ObservedCanary()
        try:
            yield observed
        finally:
            self._canaries.labels("ok" if observed.complete else "failed").inc()

    @contextmanager
    def request(self) -> Iterator[ObservedRequest]:
        """Observe one request from here to the end of the block."""
        observed = ObservedRequest(self)
        outcome = "cancelled"
        with self.running.track_inprogress():
            try:
                yield observed
                outcome = "ok" if observed.complete else "cancelled"
            except (InvalidRequestError, OverloadedError):
                outcome = "rejected"
                raise
            except DrainDeadlineError:
                outcome = "migrated"
                raise
            except Exception:
                outcome = "error"
                raise
            finally:
                self.requests.labels(outcome).inc()
                self.duration.observe(time.monotonic() - observed.started)


class ObservedRequest:
    """The clock of one request."""

    def __init__(self, metrics: RequestMetrics) -> None:
        self._metrics = metrics
        self.started = time.monotonic()
        self._last: float | None = None
        self.complete = False

    def chunk(self, *, last: bool) -> None:
        """A chunk is about to be sent; the request is complete with its last."""
        self.complete = last
        now = time.monotonic()
        if self._last is None:
            self._metrics.first_token.observe(now - self.started)
        else:
            self._metrics.next_token.observe(now - self._last)
        self._last = now


class ObservedCanary:
    """Whether a probe was answered."""

    complete = False

    def chunk(self, *, last: bool) -> None:
        """A chunk is about to be sent; the answer is complete with its last."""
        self.complete = last


class PhaseMetrics:
    """Where the worker is in its life, and how long its end takes."""

    def __init__(
        self,
        registry: CollectorRegistry,
        ready: Gauge,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ready` is the gauge that every process has."""
        self._ready = ready
        self._monotonic_s = monotonic_s
        self._draining_since: float | None = None
        self._phases = Gauge(
            "shepherd_worker_phase",
            "1 for the phase that the worker is in.",
            ["phase"],
            registry=registry,
        )
        Gauge(
            "shepherd_worker_drain_duration_seconds",
            "Seconds since the worker was told to end; 0 before.",
            registry=registry,
        ).set_function(self._drained_s)
        self.become(Phase.STARTING)

    def become(self, phase: Phase) -> None:
        """The worker is in another phase now."""
        for each in Phase:
            self._phases.labels(each).set(each is phase)
        self._ready.set(phase is Phase.READY)
        if phase is Phase.DRAINING:
            self._draining_since = self._monotonic_s()

    def _drained_s(self) -> float:
        since = self._draining_since
        return 0.0 if since is None else self._monotonic_s() - since


class ImageMetrics:
    """Where the images of requests came from."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.remote = Counter(
            "shepherd_worker_images_remote",
            "Images that an encode worker encoded for this one.",
            registry=registry,
        )
        self.fallbacks = Counter(
            "shepherd_worker_encode_fallbacks",
            "Requests whose images no encode worker encoded, so that this worker did.",
            registry=registry,
        )


def load_seconds(registry: CollectorRegistry) -> Gauge:
    """Where the time until the engine could compute is told."""
    return Gauge(
        "shepherd_worker_model_load_seconds",
        "Seconds from the engine's start until it could compute.",
        registry=registry,
    )


def exposition(registry: CollectorRegistry) -> str:
    """The registry in Prometheus's text format."""
    return generate_latest(registry).decode()
