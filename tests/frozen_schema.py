"""Version 1.0 as it was released, beside the version under test: `tests/golden/v1_0/`.

The schema is read from its frozen descriptors into a pool of its own, so that
these classes know nothing of what was added later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_DIRECTORY = Path(__file__).parent / "golden" / "v1_0"

GOLDEN: dict[str, dict[str, Any]] = json.loads((_DIRECTORY / "kv_frames.json").read_text("utf-8"))
"""Each message's bytes in hex, and its meaning."""


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString((_DIRECTORY / "descriptors.binpb").read_bytes()).file:
        pool.Add(file)
    return pool


_POOL = _pool()


def message_class(name: str) -> Any:
    """A message of the released schema, such as `Frame`."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"shepherd_events.v1.{name}"))


Frame = message_class("Frame")
ControlRequest = message_class("ControlRequest")
ControlReply = message_class("ControlReply")
