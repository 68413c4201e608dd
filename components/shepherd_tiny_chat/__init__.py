"""A tiny chat model that ships: where it lies, and the tool that it knows how to call.

The model is made by `scripts/train_tiny_chat.py` from the conversations of
`corpus`; what it can do is measured by `evaluation`.  See README.md, its card.
"""

from __future__ import annotations

from pathlib import Path

from shepherd_tiny_chat.search_tool import SEARCH_MEMORY, search_query

__all__ = ["MODEL_DIR", "MODEL_NAME", "SEARCH_MEMORY", "search_query"]

MODEL_DIR = Path(__file__).parent / "model"
"""A Hugging Face model directory: weights, tokenizer, chat template."""
MODEL_NAME = "shepherd-tiny-chat"
