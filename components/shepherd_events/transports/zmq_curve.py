"""Who may speak ZMQ with us: CURVE keys, and the gate that compares them.

    publisher   own key pair, a directory of the readers' public keys
    reader      own key pair, the publisher's public key

A reader that knows another publisher's key, or none, fails the handshake; one
whose key is not in the directory is turned away by the gate.  Either is told of
once in the log and counted each time, and no byte of a frame is sent to it.  The
directory is read again when it changes: keys come and go without a restart.

Source: ZeroMQ RFC 26 (CurveZMQ) and RFC 27 (ZAP).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from shepherd_events.errors import CredentialsError
from shepherd_events.key_files import read_secret
from shepherd_events.transports.credentials import CurveCredentials

logger = logging.getLogger(__name__)

_DOMAIN = "shepherd.kv"
_MAX_TOLD = 1000
"""Readers that are told of by key; further ones are only counted."""
_FAILED = zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_FAILED_PROTOCOL


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A party's own keys, in Z85."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, path: str) -> KeyPair:
        """Read a secret certificate.

        Raises:
            CredentialsError: it cannot be read, others may use it, or it has no secret key.
        """
        read_secret(path)
        public, secret = _load(path)
        if secret is None:
            raise CredentialsError(path, "holds no secret key: expected a *.key_secret file")
        return cls(public, secret)

    def put_on(self, socket: zmq.Socket[Any]) -> None:
        """Let a socket be this party."""
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret


class AllowedReaders:
    """The public keys in a directory; the gate's thread asks."""

    def __init__(self, directory: str) -> None:
        """Raises CredentialsError where a file of the directory is no key, or there is none."""
        self._directory = Path(directory).expanduser()
        self._read_at = -1
        self._keys: frozenset[bytes] = frozenset()
        self._told: set[bytes] = set()
        self._refresh()

    def allows(self, key: bytes) -> bool:
        """Whether whoever has proven to own this public key, in Z85, may connect."""
        try:
            self._refresh()
        except CredentialsError as error:
            self._tell_once(str(error).encode(), f"the readers of before stay allowed: {error}")
        if key in self._keys:
            return True
        self._tell_once(key, f"a reader was turned away: its key is not in {self._directory}")
        return False

    def _tell_once(self, about: bytes, text: str) -> None:
        if about not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(about)
            logger.warning("%s", text)

    def _refresh(self) -> None:
        try:
            changed_at = self._directory.stat().st_mtime_ns
            if changed_at == self._read_at:
                return
            files = sorted(self._directory.glob("*.key"))
        except OSError as error:
            raise CredentialsError(str(self._directory), f"cannot be read: {error}") from error
        keys = frozenset(_load(str(file))[0] for file in files)
        if not keys and self._read_at < 0:
            raise CredentialsError(str(self._directory), "holds no public key (*.key)")
        self._keys, self._read_at = keys, changed_at


class Gate:
    """Lets the allowed readers of one context in; owns a thread, which ends with the context."""

    def __init__(self, credentials: CurveCredentials) -> None:
        """Raises CredentialsError where a file cannot be used."""
        self._own = KeyPair.load(credentials.key_file)
        self._readers = AllowedReaders(credentials.peers)
        self._monitors: list[zmq.Socket[bytes]] = []
        self._thread: threading.Thread | None = None
        self.num_refused = 0
        """Handshakes that failed; a reader that is turned away tries again and again."""

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Begin to answer, before any socket of the context listens."""
        zap = context.socket(zmq.REP)
        zap.bind("inproc://zeromq.zap.01")
        self._thread = threading.Thread(
            target=self._run, args=(zap,), name="kv-events-gate", daemon=True
        )

    def guard(self, socket: zmq.Socket[bytes], name: str) -> None:
        """Put a socket that does not listen yet behind the gate."""
        self._own.put_on(socket)
        socket.curve_server = True
        socket.zap_domain = _DOMAIN.encode()
        socket.monitor(f"inproc://gate-{name}", _FAILED)
        monitor = socket.context.socket(zmq.PAIR)
        monitor.connect(f"inproc://gate-{name}")
        self._monitors.append(monitor)

    def start(self) -> None:
        """Run; every socket is guarded now."""
        assert self._thread is not None, "open() comes first"
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, once the context is being terminated."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, zap: zmq.Socket[bytes]) -> None:
        try:
            while True:
                ready, _, _ = zmq.select([zap, *self._monitors], [], [])
                for socket in ready:
                    message = socket.recv_multipart()
                    if socket is zap:
                        zap.send_multipart(self._verdict(message))
                    else:
                        self._count(message)
        except zmq.ContextTerminated:
            pass
        except Exception:
            logger.exception("nobody will be let in any more")
        finally:
            for socket in (zap, *self._monitors):
                socket.close(linger=0)

    def _verdict(self, question: list[bytes]) -> list[bytes]:
        """The answer to one question of libzmq, which has checked the signature before it asks."""
        match question:
            case [b"1.0", request_id, _, _, _, b"CURVE", key]:
                allowed = self._readers.allows(z85.encode(key))
            case [_, request_id, *_]:
                allowed = False
            case _:
                raise ValueError(f"a ZAP question of {len(question)} parts")
        status, text = (b"200", b"OK") if allowed else (b"400", b"not an allowed reader")
        return [b"1.0", request_id, status, text, b"", b""]

    def _count(self, message: list[bytes]) -> None:
        if not parse_monitor_message(message)["event"] & _FAILED:
            return
        self.num_refused += 1
        if self.num_refused == 1:
            logger.warning("a reader failed the handshake; further ones are only counted")


def reader_keys(credentials: CurveCredentials) -> tuple[KeyPair, bytes]:
    """A reader's own keys, and the public key of the publishers that it believes.

    Raises:
        CredentialsError: a file cannot be used.
    """
    return KeyPair.load(credentials.key_file), _load(credentials.peers)[0]


def _load(path: str) -> tuple[bytes, bytes | None]:
    try:
        return load_certificate(Path(path).expanduser())
    except (OSError, ValueError) as error:
        raise CredentialsError(path, f"is no CURVE key: {error}") from error
