"""`search_memory` as an OpenAI client offers it to a model, and how its calls read."""

from __future__ import annotations

import json
import re
from typing import Any

SEARCH_MEMORY: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search_memory",
        "description": "Search earlier parts of this conversation that left the context.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to look for."}},
            "required": ["query"],
        },
    },
}
"""The tool's definition in its shortest useful form; the model understands others, too."""

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def search_query(answer: str) -> str | None:
    """The query of the first well-formed `search_memory` call in an answer; None without one."""
    for text in _CALL.findall(answer):
        try:
            call = json.loads(text)
            query = call["arguments"]["query"]
        except (ValueError, LookupError, TypeError):
            continue
        if call.get("name") == "search_memory" and isinstance(query, str) and query.strip():
            return query
    return None
