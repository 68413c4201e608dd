"""Tokenizers are not the fake's business."""

from __future__ import annotations

from typing import Any


def tokenizer_factory(obj: Any, trust_remote_code: bool = False) -> Any:
    """Nothing at all."""
    del obj, trust_remote_code
