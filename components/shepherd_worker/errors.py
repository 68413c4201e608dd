"""What can go wrong in a worker, and how the process ends.

    WorkerError
    |-- InvalidRequestError      the client's fault: HTTP 400, nothing else is disturbed
    |-- OverloadedError          too much is waiting: HTTP 429, try again later
    |-- ProcessorError           a logits processor could not be made: its request fails
    |-- StartError               the process cannot start: one line, `exit_code`
    |   |-- UnusableInputError   3: a model directory, a port: named but not usable
    |   |-- UnreachableError     4: discovery, broker or package that is not there
    |   `-- EngineFailedError    5: weights that do not load, memory that does not suffice
    |-- EncodeWorkerError      an encode worker did not answer: the image is encoded here
    |-- DrainDeadlineError     the worker leaves: Dynamo moves the request to another one
    `-- EngineDeadError          the engine stopped while serving: fatal for the process

Exit code 0 is an orderly end, 1 an unforeseen one, 2 a wrong option (`shepherd_config`).
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """Root of this package's errors."""


class InvalidRequestError(WorkerError):
    """A request that no retry will make right."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{field}={value!r} is not valid: expected {expected}")


class OverloadedError(WorkerError):
    """The queue is full; the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, num_waiting: int, limit: int, retry_after_s: int = 1) -> None:
        self.num_waiting = num_waiting
        self.limit = limit
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{num_waiting} requests are waiting, the limit is {limit}: "
            f"retry after {retry_after_s} s"
        )


class ProcessorError(WorkerError):
    """A logits processor of the operator's failed before its first token."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a logits processor failed: {reason}")


class StartError(WorkerError):
    """The process cannot start; `exit_code` says which kind of reason."""

    exit_code: ClassVar[int] = 1


class UnusableInputError(StartError):
    """Something that an option names is missing, taken or broken."""

    exit_code = 3


class UnreachableError(StartError):
    """A service or package that the configuration needs is not there."""

    exit_code = 4


class EngineFailedError(StartError):
    """The engine could not load the model."""

    exit_code = 5


class EncodeWorkerError(WorkerError):
    """No encode worker gave what was asked for; nothing is lost but its help."""


class DrainDeadlineError(WorkerError):
    """The worker is shutting down and this request was not finished in time."""


class EngineDeadError(WorkerError):
    """The engine stopped; no request will be answered by this process any more."""
