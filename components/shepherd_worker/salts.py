"""Cache salts behind their ids.

Events carry only the id of a salt; Dynamo's router, and readers of vLLM's form,
hash with the salt itself.  It arrives with every request.  Any thread.
"""

from __future__ import annotations

from shepherd_events.block_hash import salt_id

MAX_SALTS = 4096
"""Salts remembered; the oldest is forgotten first."""


class Salts:
    """The salts of the requests that came."""

    def __init__(self) -> None:
        self._salts: dict[bytes, str] = {}

    def learn(self, cache_salt: str) -> None:
        """Remember a salt; an empty one is none."""
        if not cache_salt:
            return
        self._salts[salt_id(cache_salt)] = cache_salt
        if len(self._salts) > MAX_SALTS:
            self._salts.pop(next(iter(self._salts)))

    def get(self, cache_salt_id: bytes) -> str | None:
        """The salt behind an id, or None."""
        return self._salts.get(cache_salt_id)
