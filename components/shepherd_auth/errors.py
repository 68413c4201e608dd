"""Why somebody is not let in.

AuthError
|-- CredentialError      HTTP 401: no credential, or not a valid one; `reason` is for counters
|-- PermissionDeniedError  HTTP 403: a valid credential that does not allow this
`-- CredentialFileError  a file of keys cannot be used: the process must not start
"""

from __future__ import annotations


class AuthError(Exception):
    """Root of this package's errors."""


class CredentialError(AuthError):
    """The caller is not known.  The message never repeats what was shown."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        """`missing`, `malformed`, `unknown`, `expired` or `invalid`."""
        super().__init__(message)


class PermissionDeniedError(AuthError):
    """The caller is known and may not do this."""

    def __init__(self, needed: str, message: str) -> None:
        self.needed = needed
        """What the credential lacks: a scope, or `tenant`."""
        super().__init__(message)


class CredentialFileError(AuthError):
    """A file of keys that cannot be used."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path} {problem}")
