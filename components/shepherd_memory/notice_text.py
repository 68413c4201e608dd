"""The words of a notice.

The outbox keeps what happened; the words are made when it is told, by default
the original's.  Any other wording ends in a mark of the notice's id, by which
it is recognised, and not archived, when it comes back in a prompt
(`recalled.py`).
"""

from __future__ import annotations

import re
import string
from typing import ClassVar

from shepherd_events.events import Notice

MAX_CHARS = 500
_FIELDS = frozenset({"topic", "num_turns"})


class NoticeTemplate:
    """One line that begins with NOTICE and names the topic."""

    DEFAULT: ClassVar = (
        'NOTICE: Conversation regarding "{topic}" has been moved to long-term memory. '
        "Use search_memory to recall it."
    )

    def __init__(self, text: str = DEFAULT) -> None:
        """Check a template.

        Raises:
            ValueError: what was expected of it.
        """
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise ValueError(f"a template ({error})") from error
        if "topic" not in fields or not fields <= _FIELDS:
            raise ValueError("{topic}, and beside it nothing in braces but {num_turns}")
        if not text.startswith("NOTICE: ") or re.search(r"[\x00-\x1f\x7f]", text):
            raise ValueError("one line that begins with 'NOTICE: '")
        if len(text) > MAX_CHARS:
            raise ValueError(f"at most {MAX_CHARS} characters")
        self._text = text

    def render(self, notice: Notice) -> str:
        """What the session is told."""
        said = self._text.format(topic=notice.topic, num_turns=len(notice.turns))
        if self._text == self.DEFAULT:
            return said
        return f"{said} [notice {notice.notice_id[:8]}]"
