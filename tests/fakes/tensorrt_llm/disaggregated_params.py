"""What travels from a context worker to a generation worker."""

from __future__ import annotations

from typing import Any

from trtllm_backend.schema import dataclass_of


class _Behaviour:
    def __post_init__(self: Any) -> None:
        if self.request_type is None:
            return
        self.request_type = self.request_type.lower()
        if self.request_type not in {"context_only", "generation_only", "context_and_generation"}:
            raise ValueError(f"Invalid request type: {self.request_type}")

    def get_request_type(self: Any) -> Any:
        return self.request_type

    def get_context_phase_params(self: Any) -> Any:
        return self.disagg_request_id or self.ctx_request_id


DisaggregatedParams = dataclass_of("DisaggregatedParams", __name__, (_Behaviour,))
