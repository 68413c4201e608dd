"""The file of API keys: JSON of mode 0600, replaced as a whole.

Several processes may change it (a lock beside it takes turns) while others read
it: a reader sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shepherd_auth.api_keys import ApiKey, KeyRing, issue, retiring
from shepherd_auth.errors import CredentialFileError
from shepherd_auth.identity import Scope
from shepherd_auth.private_file import read_private


@dataclass(frozen=True, slots=True)
class _Document:
    version: int = 1
    keys: list[ApiKey] = field(default_factory=list)


_DOCUMENT = TypeAdapter(_Document)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file, in the order of their making.

    Raises:
        CredentialFileError: it cannot be read, others may read it, or it is not a file of keys.
    """
    text = read_private(path)
    try:
        document = _DOCUMENT.validate_json(text)
    except ValidationError as error:
        raise CredentialFileError(str(path), "is not a file of API keys") from error
    if document.version != 1:
        raise CredentialFileError(str(path), f"has version {document.version}, expected 1")
    return tuple(document.keys)


def read_ring(path: Path) -> KeyRing:
    """The keys in a file, ready to verify."""
    return KeyRing(read_keys(path))


class KeyFile:
    """Makes, retires and removes keys; blocks."""

    def __init__(
        self,
        path: Path,
        *,
        now_unix_s: Callable[[], float],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """The file is made by the first `create`."""
        self._path = path
        self._now_unix_s = now_unix_s
        self._random_bytes = random_bytes

    def keys(self) -> tuple[ApiKey, ...]:
        """All keys; none where there is no file yet."""
        return read_keys(self._path) if self._path.exists() else ()

    def create(
        self, *, name: str, tenant: str, scopes: Iterable[Scope], lifetime_s: int | None
    ) -> tuple[ApiKey, str]:
        """Add a key; returns it with the text that is never seen again.

        Raises:
            ValueError: see `issue`.
            CredentialFileError: the file cannot be used.
        """
        with self._changing() as keys:
            now = int(self._now_unix_s())
            made = issue(
                name=name,
                tenant=tenant,
                scopes=scopes,
                now_unix_s=now,
                expires_unix_s=None if lifetime_s is None else now + lifetime_s,
                random_bytes=self._random_bytes,
            )
            keys.append(made[0])
        return made

    def revoke(self, key_id: str) -> ApiKey:
        """Remove a key.

        Raises:
            KeyError: there is none with this id.
            CredentialFileError: the file cannot be used.
        """
        with self._changing() as keys:
            key = _named(keys, key_id)
            keys.remove(key)
        return key

    def rotate(self, key_id: str, *, overlap_s: int) -> tuple[ApiKey, str]:
        """Make a successor with the same rights and lifetime; the old key goes on for `overlap_s`.

        Raises:
            KeyError: there is none with this id.
            CredentialFileError: the file cannot be used.
        """
        with self._changing() as keys:
            old, now = _named(keys, key_id), int(self._now_unix_s())
            ends = old.expires_unix_s
            successor, text = issue(
                name=old.name,
                tenant=old.tenant,
                scopes=old.scopes,
                now_unix_s=now,
                expires_unix_s=None if ends is None else now + ends - old.created_unix_s,
                random_bytes=self._random_bytes,
            )
            keys[keys.index(old)] = retiring(old, now + overlap_s)
            keys.append(successor)
        return successor, text

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The list of keys, written back at the end of the block."""
        try:
            lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CredentialFileError(
                str(self._path), f"cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = list(self.keys())
            yield keys
            self._replace(_DOCUMENT.dump_json(_Document(keys=keys), indent=2) + b"\n")
        finally:
            os.close(lock)

    def _replace(self, content: bytes) -> None:
        """Durable before visible; mode 0600 from the beginning."""
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(self._path)


def _named(keys: Iterable[ApiKey], key_id: str) -> ApiKey:
    for key in keys:
        if key.key_id == key_id:
            return key
    raise KeyError(key_id)
