"""JSON Schemas of what crosses the worker's edge, made from the dataclasses.

`python -m shepherd_worker.schemas` rewrites the files in `schemas/`; a test
compares them with the code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from shepherd_worker.engine.protocol import Handoff
from shepherd_worker.health import HealthReport
from shepherd_worker.image_wire import EncodeAnswer
from shepherd_worker.wire import WireChunk, WireRequest

DIRECTORY: Final = Path(__file__).parent / "schemas"
_DOCUMENTS: Final[dict[str, type]] = {
    "request": WireRequest,
    "chunk": WireChunk,
    "handoff": Handoff,
    "encode_answer": EncodeAnswer,
    "health": HealthReport,
}


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema by document name."""
    return {name: TypeAdapter(kind).json_schema() for name, kind in _DOCUMENTS.items()}


def render(schema: dict[str, Any]) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def write(directory: Path = DIRECTORY) -> None:
    """Write every schema as `NAME.schema.json`."""
    for name, schema in schemas().items():
        (directory / f"{name}.schema.json").write_text(render(schema))


if __name__ == "__main__":
    write()
