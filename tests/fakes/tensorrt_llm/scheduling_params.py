"""Where a request may run."""

from trtllm_backend.schema import dataclass_of

SchedulingParams = dataclass_of("SchedulingParams", __name__)
