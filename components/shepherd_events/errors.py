"""What can go wrong between a publisher and its readers.

    KvEventsError
    |-- CodecError                  bytes that are no message, or a message that has no bytes
    |   |-- ChecksumError           bytes that are not those that were written
    |   `-- UnknownFeaturesError    a frame that needs more than this reader understands
    |-- RequestFailedError          a control request that was answered, but not with what it asked
    |-- CredentialsError            a file of keys that cannot be used
    |-- EpochFileError              a file that should hold a stream's last epoch and does not
    `-- TransportError              a wire that cannot be made or used
        |-- ListenerRefusedError    an address that may not be listened on without credentials
        `-- NoAnswerError           a control request that nobody answered in time

Who iterates over a subscription sees none of them: it retries, and says STALE
meanwhile.
"""

from __future__ import annotations


class KvEventsError(Exception):
    """Root of this package's errors."""


class CodecError(KvEventsError):
    """Bytes that are no valid message, or a message that cannot be written as bytes."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        """Dotted path in the wire format, such as `blocks.run_len`."""
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class ChecksumError(CodecError):
    """A message that was altered on its way, in a log or in memory."""

    def __init__(self, problem: str) -> None:
        super().__init__("checksum", problem)


class UnknownFeaturesError(CodecError):
    """A frame that may only be applied by readers that know its features."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        """The bits of `required_features` that are not known here."""
        super().__init__("required_features", f"bits {bits:#x} are not known: upgrade this reader")


class RequestFailedError(KvEventsError):
    """A control request that was answered, but not with what it asked for."""

    def __init__(self, problem: str, *, retry_after_s: float = 0.0) -> None:
        self.problem = problem
        self.retry_after_s = retry_after_s
        """How long the publisher wants to be left alone."""
        super().__init__(problem)


class CredentialsError(KvEventsError):
    """A file of keys that is missing, that others may use, or that holds something else."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path!r} {problem}")


class EpochFileError(KvEventsError):
    """The file with a stream's last epoch cannot be used; a lower epoch would be ignored."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"epoch file {path!r}: {problem}")


class TransportError(KvEventsError):
    """A wire that cannot be made or used."""


class ListenerRefusedError(TransportError):
    """An address beyond loopback: whoever reaches it could read every token."""

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(
            f"refusing to publish KV events on {host!r}: expected a loopback address such as "
            "127.0.0.1 or ::1, or CURVE keys and an address by which readers can connect"
        )


class NoAnswerError(TransportError):
    """A control request that nobody answered in time."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        super().__init__(f"{endpoint} did not answer within {timeout_s:g} s")
