"""Spans to an OpenTelemetry collector, over OTLP and HTTP.

The only file that imports OpenTelemetry's SDK, which is the extra `[otel]`.
Spans are sent by a thread of the SDK; what does not fit its queue is dropped.
Sampling and headers are those of OpenTelemetry's own environment variables.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation import set_span_in_context

from shepherd_telemetry.process_metrics import build
from shepherd_telemetry.spans import NOTHING, Attributes, Kind
from shepherd_telemetry.trace_context import TraceContext

_KINDS = {
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.CLIENT: trace.SpanKind.CLIENT,
    Kind.CONSUMER: trace.SpanKind.CONSUMER,
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
}


class OtlpSpans:
    """See `Spans`; one a process."""

    def __init__(self, component: str, endpoint: str) -> None:
        """`endpoint` is the collector's address, such as http://127.0.0.1:4318."""
        version, _ = build()
        resource = Resource.create(
            {"service.name": f"shepherd-{component}", "service.version": version}
        )
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("shepherd", version)

    def start(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        attributes: Attributes = NOTHING,
    ) -> _OtlpSpan:
        """See `Spans`."""
        above = trace.NonRecordingSpan(_remote(parent)) if parent else trace.INVALID_SPAN
        span = self._tracer.start_span(
            name,
            context=set_span_in_context(above),
            kind=_KINDS[kind],
            links=[trace.Link(_remote(link)) for link in links],
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        )
        return _OtlpSpan(span)

    def close(self) -> None:
        """See `Spans`."""
        self._provider.shutdown()


class _OtlpSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def context(self) -> TraceContext:
        """See `Span`."""
        own = self._span.get_span_context()
        return TraceContext(
            f"{own.trace_id:032x}", f"{own.span_id:016x}", sampled=own.trace_flags.sampled
        )

    def set(self, attributes: Attributes) -> None:
        """See `Span`."""
        self._span.set_attributes(dict(attributes))

    def end(self, failure: str = "") -> None:
        """See `Span`."""
        if failure:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _remote(context: TraceContext) -> trace.SpanContext:
    return trace.SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if context.sampled else 0),
    )
