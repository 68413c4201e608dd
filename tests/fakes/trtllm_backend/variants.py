"""Which TensorRT-LLM the fake is, and what that version has.

`FAKE_TRTLLM_VERSION` chooses; names come from `tests/golden/trtllm_api.json`, so
that the fake cannot have one that does not exist.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parents[2] / "golden" / "trtllm_api.json"
_API = json.loads(FACTS.read_text())
_NEWER_THAN_1_2 = ("1.3", "later", ">rc20", "after early 1.2")
_NEWER_THAN_RC20 = ("later", ">rc20")


@dataclass(frozen=True)
class Variant:
    """One version, as far as an adapter can tell."""

    version: str
    snapshot: str
    """Its name in the facts."""
    newer: tuple[str, ...]
    """What `since` says of names that this version lacks."""
    hex_hashes: bool = False
    """Whether the V2 cache manager names blocks by hex strings."""
    salted_events: bool = True
    """Whether an event's blocks carry their salt."""
    shows_end_id: bool = True
    """Whether the end-of-sequence token is among an answer's tokens."""
    has_build_config: bool = True
    node_ids: bool = False
    """Whether `get_global_disagg_request_id` takes a node and a process."""
    iterates_once: bool = False
    """Whether an event iterator stays done until a request comes, and asserts before the first."""
    metric_prefix: str = "trtllm_"

    def has(self, fact: dict[str, Any]) -> bool:
        """Whether a field or parameter of the facts exists in this version."""
        snapshots = fact.get("snapshots")
        if snapshots is not None and self.snapshot not in snapshots:
            return False
        if str(fact.get("since", "")).startswith(self.newer):
            return False
        if self.snapshot != "main":
            return fact.get("rc20") is not False or "snapshots" not in fact
        return "until" not in fact


VARIANTS = {
    variant.version: variant
    for variant in (
        Variant(
            "1.2.0",
            "1.2",
            _NEWER_THAN_1_2,
            salted_events=False,
            shows_end_id=False,
            iterates_once=True,
            metric_prefix="",
        ),
        Variant("1.3.0rc20", "rc20", _NEWER_THAN_RC20),
        Variant("1.3.0rc26", "main", (), hex_hashes=True, has_build_config=False, node_ids=True),
    )
}
VARIANT = VARIANTS[os.environ.get("FAKE_TRTLLM_VERSION", "1.3.0rc20")]


def class_fields(name: str, key: str = "fields") -> dict[str, Any]:
    """A class's fields in this version, with their defaults; `...` where one must be given."""
    return {
        field: _default(fact)
        for field, fact in _API["classes"][name][key].items()
        if VARIANT.has(fact)
    }


def parameters(method: str) -> list[str]:
    """The parameters of a method of `LLM` in this version."""
    facts = _API["classes"]["LLM"]["method_params"][method]
    return [name for name, fact in facts.items() if VARIANT.has(fact)]


def _default(fact: dict[str, Any]) -> Any:
    default = fact["default"]
    if default == "<required>":
        return ...
    if isinstance(default, str) and default.startswith("<factory"):
        return None
    return default
