"""The options that every process has for its logs and spans."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from shepherd_config import OptionError, option
from shepherd_telemetry.logs import log_json
from shepherd_telemetry.spans import NO_SPANS, Spans


@dataclass(frozen=True, kw_only=True)
class TelemetryOptions:
    """How a process logs, and where its spans go; inherited by configurations."""

    log_format: Literal["text", "json"] = option(
        "Form of the log; json has one object a line, with the trace it belongs to.",
        default="text",
        group="telemetry",
    )
    otlp_endpoint: str = option(
        "OpenTelemetry collector that spans are sent to over HTTP, as http://127.0.0.1:4318; "
        "empty sends none; it makes the log JSON.",
        default="",
        env=("OTEL_EXPORTER_OTLP_ENDPOINT",),
        group="telemetry",
    )

    @property
    def logs_json(self) -> bool:
        """Dynamo hands the trace of a request on only where its log is JSON."""
        return self.log_format == "json" or bool(self.otlp_endpoint)

    def check_telemetry(self) -> None:
        """Check the options together.

        Raises:
            OptionError: no address, or the package that it needs is missing.
        """
        endpoint = self.otlp_endpoint
        parts = urlsplit(endpoint)
        if endpoint and not (parts.scheme in {"http", "https"} and parts.hostname):
            raise OptionError("--otlp-endpoint", endpoint, "an address as http://127.0.0.1:4318")
        if endpoint and find_spec("opentelemetry.exporter") is None:
            raise OptionError("--otlp-endpoint", endpoint, "the extra shepherd-worker[otel]")

    def before_dynamo(self) -> None:
        """Before Dynamo is imported, which reads the form of its log from the environment."""
        if self.logs_json:
            os.environ["DYN_LOGGING_JSONL"] = "true"

    def after_dynamo(self) -> None:
        """After Dynamo has set its own log up."""
        if self.logs_json:
            log_json()

    def spans(self, component: str) -> Spans:
        """Where the process's spans go; the caller's to close."""
        if not self.otlp_endpoint:
            return NO_SPANS
        from shepherd_telemetry.otlp import OtlpSpans  # noqa: PLC0415 - an extra

        return OtlpSpans(component, self.otlp_endpoint)
