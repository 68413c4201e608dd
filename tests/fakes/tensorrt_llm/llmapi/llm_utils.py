"""Files of further arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tensorrt_llm.llmapi.llm_args import update_llm_args_with_extra_dict


def update_llm_args_with_extra_options(
    llm_args: dict[str, Any], extra_llm_api_options: str, explicit_cli_keys: Any = None
) -> dict[str, Any]:
    """Read a YAML file over the arguments."""
    if not extra_llm_api_options:
        return llm_args
    read = yaml.safe_load(Path(extra_llm_api_options).read_text())
    return update_llm_args_with_extra_dict(llm_args, read, extra_llm_api_options, explicit_cli_keys)


__all__ = ["update_llm_args_with_extra_dict", "update_llm_args_with_extra_options"]
