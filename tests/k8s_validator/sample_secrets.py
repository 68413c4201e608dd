"""The Secrets of deploy/k8s with valid content, made once a process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache


@cache
def sample_secrets() -> Mapping[str, Mapping[str, bytes]]:
    """File contents by Secret and key."""
    return {"shepherd-transfer": {"secret": b"6f" * 32}}
