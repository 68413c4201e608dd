"""What each role does with a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from shepherd_worker.config import Role
from shepherd_worker.handlers.aggregated import AggregatedHandler
from shepherd_worker.handlers.decode import DecodeHandler
from shepherd_worker.handlers.encode import EncodeHandler
from shepherd_worker.handlers.intake import Intake
from shepherd_worker.handlers.prefill import PrefillHandler
from shepherd_worker.inflight import CallContext


class Handler(Protocol):
    """Answers requests; one instance serves all of a worker's."""

    def generate(
        self, request: dict[str, Any], context: CallContext
    ) -> AsyncIterator[dict[str, Any]]:
        """Stream Dynamo's chunk dictionaries for one request dictionary.

        Raises:
            WorkerError: as `Engine.generate`, and `DrainDeadlineError`.
        """
        ...


def create_handler(role: Role, intake: Intake) -> Handler:
    """The handler of a role."""
    handlers: dict[Role, Callable[[Intake], Handler]] = {
        Role.AGGREGATED: AggregatedHandler,
        Role.PREFILL: PrefillHandler,
        Role.DECODE: DecodeHandler,
        Role.ENCODE: EncodeHandler,
    }
    return handlers[role](intake)


__all__ = ["Handler", "Intake", "create_handler"]
