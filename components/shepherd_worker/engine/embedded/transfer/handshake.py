"""Both sides prove that they know the secret, without showing it.

    client                         server
    HELLO      client nonce  --->
                             <---  CHALLENGE  server nonce
    PROOF      MAC(client)   --->
                             <---  WELCOME    MAC(server)

MAC(side) is HMAC-SHA-256 over the side's name and both nonces, so that neither
proof can be played back nor reflected.  It says who connects: it neither
encrypts what follows nor protects it from someone who can change packets on
their way, which is a private network's or WireGuard's business.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from shepherd_events.key_files import others_may_use
from shepherd_worker.engine.embedded.transfer.connection import Connection
from shepherd_worker.engine.embedded.transfer.errors import TransferError
from shepherd_worker.engine.embedded.transfer.frames import Kind
from shepherd_worker.errors import UnusableInputError

MIN_SECRET_BYTES = 16
_NONCE_BYTES = 32


def read_secret(path: Path) -> bytes:
    """The secret in a file, without the white space around it.

    Raises:
        UnusableInputError: there is none, it is short, or others may read it.
    """
    try:
        status, secret = path.stat(), path.read_bytes().strip()
    except OSError as error:
        raise UnusableInputError(f"--transfer-secret-file cannot be read: {error}") from error
    if others_may_use(status.st_mode, status.st_uid, os.geteuid()):
        raise UnusableInputError(
            f"--transfer-secret-file {str(path)!r} has mode {status.st_mode & 0o777:o}, others may "
            "use it: chmod 600"
        )
    if len(secret) < MIN_SECRET_BYTES:
        raise UnusableInputError(
            f"--transfer-secret-file {str(path)!r} has {len(secret)} bytes: expected at least "
            f"{MIN_SECRET_BYTES}, for example from `openssl rand -hex 32`"
        )
    return secret


def proof(secret: bytes, side: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """The MAC of one side."""
    message = b"shepherd transfer 1 " + side + client_nonce + server_nonce
    return hmac.digest(secret, message, hashlib.sha256)


async def prove_to_server(connection: Connection, secret: bytes) -> None:
    """The client's part.

    Raises:
        TransferError: the server does not know the secret, or has none.
    """
    ours = secrets.token_bytes(_NONCE_BYTES)
    await connection.send(Kind.HELLO, body=[ours])
    _, theirs = await connection.receive({Kind.CHALLENGE}, None, num_bytes=_NONCE_BYTES)
    await connection.send(Kind.PROOF, body=[proof(secret, b"client", ours, theirs)])
    _, answer = await connection.receive({Kind.WELCOME}, None)
    if not hmac.compare_digest(answer, proof(secret, b"server", ours, theirs)):
        raise TransferError("the other side does not know the secret")


async def demand_proof(connection: Connection, secret: bytes) -> None:
    """The server's part.

    Raises:
        TransferError: the client does not know the secret.
    """
    _, theirs = await connection.receive({Kind.HELLO}, None, num_bytes=_NONCE_BYTES)
    ours = secrets.token_bytes(_NONCE_BYTES)
    await connection.send(Kind.CHALLENGE, body=[ours])
    _, answer = await connection.receive({Kind.PROOF}, None)
    if not hmac.compare_digest(answer, proof(secret, b"client", theirs, ours)):
        raise TransferError("the client does not know the secret")
    await connection.send(Kind.WELCOME, body=[proof(secret, b"server", theirs, ours)])
