"""Parts of a request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_REQUEST_PRIORITY = 0.5


@dataclass
class LoRARequest:
    """An adapter for one request."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    lora_ckpt_source: str = "hf"

    def __post_init__(self) -> None:
        if not Path(self.lora_path).exists():
            raise ValueError(f"lora_path ({self.lora_path}) does not exist.")
