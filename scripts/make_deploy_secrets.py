"""Make every secret that deploy/k8s mounts: a directory each, a file per key.

    python scripts/make_deploy_secrets.py secrets/ --tenant acme
    for each in secrets/*/; do
        kubectl -n shepherd create secret generic "$(basename "$each")" --from-file="$each"
    done

Prints the API key of the tenant, which is kept nowhere else. Keep the directory
offline, or delete it: what it holds can be made anew, except `shepherd-access/tenant-salt`
and `shepherd-tenant-keys`, without which what is archived belongs to nobody.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nkeys

from shepherd_auth.identity import Scope
from shepherd_auth.key_file import KeyFile

NAMES = ("nats", "nats.{namespace}.svc", "*.nats-peers", "*.nats-peers.{namespace}.svc")
"""Under which brokers are reached: by clients, and by one another."""
YEARS = 5

USERS = """\
# Workers write streams, the memory service reads them and asks for replays; nobody does anything else.
authorization {{ users: [
  {{ nkey: {worker}, permissions: {{
      publish: ["kv.v1.>", "kv.heartbeat.>", "$JS.API.STREAM.>", "_INBOX.>"],
      subscribe: ["kv.control.>", "_INBOX.>"] }} }}
  {{ nkey: {memory}, permissions: {{
      publish: ["kv.control.>", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>"],
      subscribe: ["kv.v1.>", "kv.heartbeat.>", "_INBOX.>"] }} }}
] }}
"""


def main() -> int:
    """Write the directories; refuses to write over what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--namespace", default="shepherd", help="of Kubernetes")
    parser.add_argument(
        "--postgres-ca",
        type=Path,
        help="certificate of your PostgreSQL's authority, if you use one",
    )
    parser.add_argument("--tenant", default="acme", help="whose API key is made and printed")
    asked = parser.parse_args()
    if asked.directory.exists():
        sys.stderr.write(f"{asked.directory} is there already: name a new directory\n")
        return 2
    asked.directory.mkdir(mode=0o700, parents=True)
    _random(asked.directory)
    _brokers(asked.directory, asked.namespace)
    if asked.postgres_ca:
        _archive(asked.directory, asked.postgres_ca.read_bytes())
    print(_api_keys(asked.directory, asked.tenant))
    return 0


def _put(directory: Path, secret: str, key: str, content: str | bytes) -> None:
    path = directory / secret / key
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _random(directory: Path) -> None:
    _put(directory, "shepherd-transfer", "secret", secrets.token_hex(32))
    _put(directory, "shepherd-access", "tenant-salt", secrets.token_hex(32))
    _put(directory, "shepherd-tenant-keys", "tenant-keys", f"* {secrets.token_hex(32)}\n")


def _api_keys(directory: Path, tenant: str) -> str:
    """The gateway's key for the memory, and one of a tenant, which is returned."""
    scopes = [Scope.READ, Scope.WRITE]
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "api-keys"
        file = KeyFile(path, now_unix_s=time.time)
        _, gateway = file.create(name="gateway", tenant="*", scopes=scopes, lifetime_s=None)
        _, client = file.create(name=tenant, tenant=tenant, scopes=scopes, lifetime_s=None)
        _put(directory, "shepherd-access", "api-keys", path.read_bytes())
    _put(directory, "shepherd-gateway-key", "key", gateway)
    return client


def _archive(directory: Path, ca: bytes) -> None:
    """Passwords for the two roles; `roles.sql` makes the roles and is no Secret."""
    owner, service = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    url = (
        f"postgresql://shepherd_owner:{owner}@postgres.databases.svc:5432/shepherd"
        "?sslmode=verify-full&sslrootcert=/run/secrets/archive/ca.crt"
    )
    _put(directory, "shepherd-archive", "password", service)
    _put(directory, "shepherd-archive", "owner-url", url)
    _put(directory, "shepherd-archive", "ca.crt", ca)
    roles = directory / "roles.sql"
    roles.touch(mode=0o600)
    roles.write_text(
        f"CREATE ROLE shepherd_owner LOGIN PASSWORD '{owner}';\n"
        f"CREATE ROLE shepherd_memory LOGIN PASSWORD '{service}';\n"
        "CREATE DATABASE shepherd OWNER shepherd_owner;\n"
    )


def _brokers(directory: Path, namespace: str) -> None:
    users = {}
    for name in ("worker", "memory"):
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        users[name] = nkeys.from_seed(seed).public_key.decode()
        _put(directory, f"shepherd-{name}-nkey", "nkey", seed)
    _put(directory, "shepherd-nats-users", "users.conf", USERS.format(**users))
    with tempfile.TemporaryDirectory() as made:
        _certificates(Path(made), namespace)
        ca = (Path(made) / "ca.crt").read_bytes()
        _put(directory, "shepherd-nats-ca", "ca.crt", ca)
        _put(directory, "shepherd-nats-tls", "ca.crt", ca)
        for key in ("tls.crt", "tls.key"):
            _put(directory, "shepherd-nats-tls", key, (Path(made) / key).read_bytes())


def _certificates(directory: Path, namespace: str) -> None:
    """An authority that is forgotten at once, and the one certificate that it signed."""
    alternatives = ",".join(f"DNS:{name.format(namespace=namespace)}" for name in NAMES)
    (directory / "extensions").write_text(
        f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\n"
    )
    key = ("-newkey", "ed25519", "-nodes")
    days = ("-days", str(365 * YEARS))
    _openssl(directory, "req", "-x509", *key, *days, "-subj", "/CN=shepherd NATS authority",
             "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    _openssl(directory, "req", *key, "-subj", "/CN=nats", "-keyout", "tls.key", "-out", "request")
    _openssl(directory, "x509", "-req", *days, "-in", "request", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-CAcreateserial", "-extfile", "extensions", "-out", "tls.crt")  # fmt: skip


def _openssl(directory: Path, *argv: str) -> None:
    command = ["openssl", *argv]
    done = subprocess.run(  # noqa: S603  our own words, no shell
        command, cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"openssl {argv[0]}: {done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
