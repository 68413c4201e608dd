"""What the parts of a conversation's KV are worth, read off its messages.

The system prompt and the tool definitions are what later requests begin with,
whoever sends them; a session that says it is over will not ask for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from shepherd_events.transcript import Message, count_system_tokens
from shepherd_worker.request import HIGHEST_PRIORITY, Retention, RetentionRange

LOWEST_PRIORITY = 0


def conversation_retention(
    messages: Sequence[Message], *, session_final: bool, system_duration_s: float | None
) -> Retention | None:
    """The retention of a prompt of these messages; None where all of it is worth the default.

    `system_duration_s` is how long the system prompt outlives its last use; None is for ever.
    """
    system = count_system_tokens(messages)
    ranges = []
    if system:
        ranges.append(
            RetentionRange(
                start=0, stop=system, priority=HIGHEST_PRIORITY, duration_s=system_duration_s
            )
        )
    if session_final:
        ranges.append(RetentionRange(start=system, stop=None, priority=LOWEST_PRIORITY))
        return Retention(ranges=tuple(ranges), decode_priority=LOWEST_PRIORITY)
    return Retention(ranges=tuple(ranges)) if ranges else None
