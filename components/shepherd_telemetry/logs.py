"""Log records as JSON, one object a line, in the form that Dynamo's runtime has.

    {"time": ..., "level": "WARN", "target": "shepherd_worker.worker", "message": ...,
     "trace_id": ..., "span_id": ...}

The trace is that of the running code.  Records are what the code makes them:
whoever logs must not log what somebody said.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from shepherd_telemetry.trace_context import current

_LEVELS: Final = {"WARNING": "WARN", "CRITICAL": "ERROR"}
"""The names that Dynamo has for Python's."""


class JsonLines(logging.Formatter):
    """Formats a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "time": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": _LEVELS.get(record.levelname, record.levelname),
            "target": record.name,
            "message": record.getMessage(),
        }
        context = current()
        if context is not None:
            fields |= {"trace_id": context.trace_id, "span_id": context.span_id}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def log_json() -> None:
    """Let Python's records go to stderr as JSON from now on; the level stays what it was."""
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root.handlers = [handler]
