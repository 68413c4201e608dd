"""Engines that were built ahead; removed after 1.3.0rc20."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtllm_backend.variants import VARIANT

from tensorrt_llm.llmapi.llm import BaseLLM
from tensorrt_llm.llmapi.llm_args import TrtLlmArgs

if not VARIANT.has_build_config:
    raise ModuleNotFoundError(f"No module named {__name__!r}", name=__name__)


class LLM(BaseLLM):
    """The TensorRT backend: sizes come from the engine, weights from nowhere else."""

    _args_class = TrtLlmArgs

    def _backend_args(self) -> dict[str, Any]:
        built = json.loads((Path(self.args.model) / "config.json").read_text())["build_config"]
        self.args.max_seq_len = built["max_seq_len"]
        self.args.max_batch_size = built["max_batch_size"]
        return super()._backend_args() | {"model": self.args.tokenizer}
