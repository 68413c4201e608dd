"""Who we are and whom we believe, as files; what each wire makes of them is its own business."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CurveCredentials:
    """For ZeroMQ's CURVE; both files as `zmq.auth.create_certificates` writes them."""

    key_file: str
    """Our own key pair, of mode 0600."""
    peers: str
    """A publisher's: directory with the public keys (*.key) of the readers it lets in.
    A reader's: file with the public key of the publishers that it believes."""


@dataclass(frozen=True, slots=True)
class NatsCredentials:
    """Files that say who we are and whom we believe; empty where there is none."""

    ca_file: str = ""
    """Certificates of the authority that signed the broker's; empty takes the system's."""
    nkey_seed_file: str = ""
    """The user's NKEY seed."""
    tls: bool = False
    """Encrypt also towards a broker on this machine."""


@dataclass(frozen=True, slots=True)
class ReaderCredentials:
    """What a reader shows, by the wire that it meets."""

    curve: CurveCredentials | None = None
    nats: NatsCredentials = field(default_factory=NatsCredentials)
