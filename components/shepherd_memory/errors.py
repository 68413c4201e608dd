"""What can go wrong in the memory service.

    MemoryServiceError
    |-- InvalidParameterError    the caller's fault: HTTP 400 or 422, nothing else is disturbed
    |-- ConflictError            HTTP 409: not while the first is under way
    |-- TooManyRequestsError     HTTP 429: the tenant's rate or quota; says when to come back
    |-- UnknownItemError         HTTP 404: no such session or notice in the caller's tenant
    |-- StoreUnavailableError    a store cannot be used just now: nothing is lost, try again
    |   `-- LeaseLostError      the streams are no longer this replica's
    |-- ModelUnavailableError    an embedder or reranker cannot answer: done without, tried again
    |-- UnusableModelError       an option names a model that cannot be loaded: exit code 3
    |-- NoTenantError            an empty tenant: never means all of them
    |-- ArchiveAccessError       a database's role may too little or too much: must not start
    |-- DataDirectoryInUseError  another process serves it: this one must not start
    `-- SchemaVersionError       a store written by a later version: the process must not start

A store that fails otherwise (`sqlite3.DatabaseError`: a damaged file) ends the
process: what was not committed is read again from the streams after a restart.
"""

from __future__ import annotations

from pathlib import Path


class MemoryServiceError(Exception):
    """Root of this package's errors."""


class InvalidParameterError(MemoryServiceError):
    """A value that no retry will make right."""

    def __init__(self, field: str, value: object, limit: str, *, status: int = 422) -> None:
        self.field = field
        self.value = str(value)[:64]
        """The value's beginning, short enough to be repeated to the caller."""
        self.limit = limit
        self.status = status
        """400 where the value cannot be read at all, 422 where it is out of bounds."""
        super().__init__(f"{field}={self.value!r} is not valid: expected {limit}")


class UnknownItemError(MemoryServiceError):
    """Something that the caller named and that its tenant does not have."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"there is no {kind} {name[:64]!r}")


class StoreUnavailableError(MemoryServiceError):
    """A store that is full, locked, read-only or out of reach; what failed had no effect.

    Its text names files and hosts of ours: it is for the log and the operator.
    """

    FOR_CALLERS = "the archive cannot be used just now; nothing is lost"
    """What everybody else is told."""

    def __init__(self, store: str, reason: str) -> None:
        self.store = store
        self.reason = reason
        super().__init__(f"store {store} cannot be used: {reason}")


class LeaseLostError(StoreUnavailableError):
    """The streams are no longer this replica's; what it was about to commit had no effect."""


class ModelUnavailableError(MemoryServiceError):
    """A model that cannot answer just now; searches go on without it."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        self.reason = reason
        super().__init__(f"{model} cannot answer: {reason}")


class UnusableModelError(MemoryServiceError):
    """A model that was named and cannot be used."""

    def __init__(self, named: str, expected: str) -> None:
        self.named = named
        self.expected = expected
        super().__init__(f"the model {named!r} cannot be used: {expected}")


class NoTenantError(MemoryServiceError):
    """No tenant was named: a refusal, whatever was asked."""

    def __init__(self) -> None:
        super().__init__("no tenant: expected the tenant of a credential, which is never empty")


class ConflictError(MemoryServiceError):
    """What was asked cannot be done beside what is under way."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class TooManyRequestsError(MemoryServiceError):
    """The tenant has used up what it may."""

    def __init__(self, retry_after_s: float, reason: str) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{reason}: come back in {retry_after_s:.1f} s")


class SchemaVersionError(MemoryServiceError):
    """A store's file is of a version that this program does not know."""

    def __init__(self, path: Path | str, found: int, supported: int) -> None:
        self.path = path
        self.found = found
        self.supported = supported
        super().__init__(f"{path} has schema version {found}, this program knows {supported}")


class ArchiveAccessError(MemoryServiceError):
    """A database's role that may not do what it must, or may do what it must not."""


class DataDirectoryInUseError(MemoryServiceError):
    """Another process works in the data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(
            f"--data-dir {directory} is in use by another process: stop it or name another directory"
        )
