"""Ids that no two context workers give."""

from __future__ import annotations

import itertools
import time

from trtllm_backend.variants import VARIANT

_COUNTER = itertools.count()


def _snowflake(worker: int) -> int:
    return (int(time.time() * 1000) & (2**39 - 1)) << 24 | worker << 10 | next(_COUNTER) % 1024


if VARIANT.node_ids:

    def get_global_disagg_request_id(node_id: int, process_id: int = 0) -> int:
        """An id; `node_id` below 256, `process_id` below 64."""
        if not (0 <= node_id < 256 and 0 <= process_id < 64):
            raise ValueError(f"node_id={node_id}, process_id={process_id} are out of range")
        return _snowflake(node_id << 6 | process_id)

else:

    def get_global_disagg_request_id(machine_id: int) -> int:  # type: ignore[misc]
        """An id; `machine_id` below 1024."""
        if not 0 <= machine_id < 1024:
            raise ValueError(f"machine_id={machine_id} is out of range")
        return _snowflake(machine_id)
