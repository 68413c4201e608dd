"""A chat completion request on its way through the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shepherd_gateway.archived import SessionView
from shepherd_gateway.context import Context, Policy


@dataclass(frozen=True, slots=True)
class Ask:
    """A client's request, once it is known who asks."""

    body: Mapping[str, Any]
    """A chat completion request, its messages a list of objects."""
    tenant: str = "local"
    session: str = ""
    """Empty for a conversation that nobody is told of."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What goes upstream."""
    shows_recall: bool = False
    """Whether the client wants to see what is looked up, as reasoning."""
    arrived_s: float = 0.0
    """By the monotonic clock."""

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


@dataclass(slots=True)
class Work:
    """A request on its way; changed while it goes round."""

    ask: Ask
    body: dict[str, Any]
    policy: Policy
    context: Context | None = None
    """None where the request passes as it is."""
    guess: SessionView | None = None
    """What the context was made of without asking the memory, which must still confirm it."""
    ours: frozenset[str] = frozenset()
    """The memory's tools that are offered."""
    memory: str = "off"
    """`ok`, `degraded`, or `off`: without a session, or without a memory."""
    pending: tuple[str, ...] = ()
    """Notices that are told for the first time."""
    fittings: int = 0
    max_results: int = 0
    """What a search may bring at most, where the window is short; 0 leaves it to the model."""
    rounds: int = 0
    usage: dict[str, Any] | None = None

    def headers(self) -> dict[str, str]:
        """What the client is told of what was done."""
        is_silent = self.memory == "ok" and self.policy.is_silent
        told = {"x-shepherd-memory": "no-room" if is_silent else self.memory}
        if self.ask.session:
            told["x-shepherd-session"] = self.ask.session
        if self.context is not None:
            told["x-shepherd-dropped-turns"] = str(len(self.context.dropped))
            told["x-shepherd-notices"] = str(len(self.context.anchors))
            told["x-shepherd-recalls"] = str(self.rounds)
        return told
