"""What can go wrong between two workers."""

from __future__ import annotations


class TransferError(Exception):
    """The other side does not give what was asked for, or not as it was asked."""


FAULTS = (TransferError, OSError, EOFError, TimeoutError)
"""What a transfer that fails raises, whichever way it went."""
