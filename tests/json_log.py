"""What a process would write to a JSON log, caught while a test runs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shepherd_telemetry.logs import JsonLines


@contextmanager
def json_log() -> Iterator[list[dict[str, Any]]]:
    """The records of our own code, which are there when the block has ended."""
    told: list[dict[str, Any]] = []
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger().removeHandler(handler)
        records = [json.loads(line) for line in text.getvalue().splitlines()]
        told += [record for record in records if record["target"].startswith("shepherd_")]
