"""The C++ binding of a request's retention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any


class KvCacheRetentionConfig:
    """Priorities of ranges of a prompt, and of what is generated; read-only."""

    @dataclass(frozen=True)
    class TokenRangeRetentionConfig:
        token_start: int
        token_end: int | None = None
        priority: int = 35
        duration_ms: timedelta | None = None

    def __init__(
        self,
        token_range_retention_configs: list[TokenRangeRetentionConfig],
        decode_retention_priority: int = 35,
        decode_duration_ms: timedelta | None = None,
        transfer_mode: Any = None,
        directory: str = "",
    ) -> None:
        self._ranges = list(token_range_retention_configs)
        self._decode = (decode_retention_priority, decode_duration_ms)
        self._transfer = (transfer_mode, directory)
        ends = [0]
        for each in sorted(self._ranges, key=lambda r: r.token_start):
            if each.token_start < ends[-1]:
                raise ValueError("token ranges overlap")
            ends.append(each.token_end or 2**31)

    @property
    def token_range_retention_configs(self) -> list[TokenRangeRetentionConfig]:
        return self._ranges

    @property
    def decode_retention_priority(self) -> int:
        return self._decode[0]

    @property
    def decode_duration_ms(self) -> timedelta | None:
        return self._decode[1]
