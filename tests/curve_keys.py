"""CURVE key pairs in files, as operators make them."""

from __future__ import annotations

from pathlib import Path

from zmq.auth import create_certificates

from shepherd_events.transports.credentials import CurveCredentials


class CurveKeys:
    """A publisher's key pair, and a directory of the readers that it lets in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.readers = directory / "readers"
        self.readers.mkdir()
        self.make("publisher")
        self.allow("reader")

    def make(self, name: str) -> Path:
        """A fresh key pair; returns the file of the public key."""
        public, secret = create_certificates(str(self.directory), name)
        Path(secret).chmod(0o600)
        return Path(public)

    def allow(self, name: str) -> None:
        """A fresh key pair that may read."""
        public = self.make(name)
        (self.readers / public.name).write_bytes(public.read_bytes())

    @property
    def publisher(self) -> CurveCredentials:
        return CurveCredentials(self._secret("publisher"), str(self.readers))

    def reader(self, name: str = "reader", publisher: str = "publisher") -> CurveCredentials:
        """What a reader shows that believes a publisher."""
        return CurveCredentials(self._secret(name), str(self.directory / f"{publisher}.key"))

    def _secret(self, name: str) -> str:
        return str(self.directory / f"{name}.key_secret")
