"""Models that are compiled as they come."""

from __future__ import annotations

from typing import Any

import pydantic
from trtllm_backend.variants import class_fields

from tensorrt_llm.llmapi.llm import BaseLLM
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

_REJECTED = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size",
             "moe_cluster_parallel_size", "moe_tensor_parallel_size",
             "moe_expert_parallel_size", "enable_attention_dp", "cp_config")  # fmt: skip
_EXTRA: dict[str, Any] = {
    name: (Any, default)
    for name, default in class_fields("AutoDeployLLM", "init_kwargs_extra").items()
}
_WithExtra = pydantic.create_model("_WithExtra", __base__=TorchLlmArgs, **_EXTRA)


class LlmArgs(_WithExtra):  # type: ignore[misc, valid-type]
    """Parallelism is `world_size` and nothing else."""

    @pydantic.model_validator(mode="after")
    def _reject(self) -> Any:
        for name in _REJECTED:
            if getattr(self, name) != TorchLlmArgs.model_fields[name].default:
                raise ValueError(f"AutoDeploy does not support {name}")
        return self


class LLM(BaseLLM):
    """The AutoDeploy backend."""

    _args_class = LlmArgs
