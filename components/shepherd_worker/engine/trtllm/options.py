"""Options that only TensorRT-LLM understands, beside those that all engines share.

Each is one field here, one flag, one variable and one key; `construction.py`
says which argument of `LLM` it becomes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from shepherd_config import OptionError, option
from shepherd_worker.errors import UnusableInputError

Transceiver = Literal["auto", "default", "nixl", "ucx", "mooncake", "mpi"]


@dataclass(frozen=True, kw_only=True)  # no slots: two slotted bases cannot be combined
class TrtllmOptions:
    """What can be said to TensorRT-LLM alone; other engines ignore it."""

    trtllm_backend: Literal["pytorch", "autodeploy"] = option(
        "What runs the model inside TensorRT-LLM; a directory of built engines chooses itself.",
        default="pytorch",
        synonyms={"_autodeploy": "autodeploy"},
        group="tensorrt-llm",
    )
    pipeline_parallel_size: int = option(
        "Groups of GPUs that hold consecutive layers.",
        default=1,
        minimum=1,
        aliases=("--pp-size",),
        group="tensorrt-llm",
        unit="groups",
    )
    expert_parallel_size: int | None = option(
        "GPUs that share a mixture's experts; none leaves it to TensorRT-LLM.",
        default=None,
        minimum=1,
        aliases=("--moe-expert-parallel-size", "--ep-size"),
        group="tensorrt-llm",
        unit="GPUs",
    )
    enable_attention_dp: bool = option(
        "Give each tensor-parallel GPU requests, and a cache, of its own.",
        default=False,
        group="tensorrt-llm",
    )
    conversation_affinity: bool = option(
        "Keep a session on the attention-parallel GPU that holds its blocks.",
        default=False,
        env=("DYN_ENGINE_CONV_AFFINITY",),
        group="tensorrt-llm",
    )
    gpus_per_node: int | None = option(
        "GPUs of one machine; none counts them.",
        default=None,
        minimum=1,
        group="tensorrt-llm",
        unit="GPUs",
    )
    max_beam_width: int = option(
        "Beams that engines are sized for.",
        default=1,
        minimum=1,
        group="tensorrt-llm",
        unit="beams",
    )
    enable_chunked_prefill: bool = option(
        "Compute prompts longer than --max-num-tokens in pieces; else they are refused.",
        default=True,
        group="tensorrt-llm",
    )
    guided_decoding_backend: Literal["none", "xgrammar", "llguidance"] = option(
        "What holds answers to a schema; none refuses such requests.",
        default="xgrammar",
        group="tensorrt-llm",
    )
    lora_directory: str = option(
        "Directory whose subdirectories are LoRA adapters, by their names; empty serves none.",
        default="",
        group="tensorrt-llm",
    )
    cache_transceiver: Transceiver = option(
        "How KV travels between prefill and decode workers; auto and default leave it to TensorRT-LLM.",
        default="auto",
        group="tensorrt-llm",
        only="--role prefill or decode",
    )
    trust_remote_code: bool = option(
        "Run code that comes with the model.", default=False, group="tensorrt-llm"
    )
    load_format: str = option(
        "Where weights come from: auto, dummy (random, for measuring), or what TensorRT-LLM has.",
        default="auto",
        group="tensorrt-llm",
    )
    extra_engine_args: str = option(
        "YAML file of further arguments of LLM; they win over the options.",
        default="",
        aliases=("--extra-llm-api-options",),
        group="tensorrt-llm",
    )
    override_engine_args: str = option(
        "JSON object of arguments of LLM, merged last and deeply.",
        default="",
        group="tensorrt-llm",
    )

    def trtllm_options(self) -> TrtllmOptions:
        """These options by themselves, out of a configuration that has more."""
        return TrtllmOptions(
            **{each.name: getattr(self, each.name) for each in fields(TrtllmOptions)}
        )

    def check_trtllm(self) -> None:
        """Cross-check these options, before anything is loaded.

        Raises:
            OptionError: overrides that are no JSON object.
            UnusableInputError: a file or directory is not there.
        """
        for flag, path in (
            ("--extra-engine-args", self.extra_engine_args),
            ("--lora-directory", self.lora_directory),
        ):
            if path and not Path(path).exists():
                raise UnusableInputError(f"{flag}: there is no {path!r}")
        self.overrides()

    def overrides(self) -> dict[str, Any]:
        """The object of `--override-engine-args`.

        Raises:
            OptionError: it is not a JSON object.
        """
        text = self.override_engine_args
        try:
            parsed = json.loads(text or "{}")
        except ValueError as error:
            raise OptionError("--override-engine-args", text, f"JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise OptionError("--override-engine-args", text, "a JSON object")
        return parsed
