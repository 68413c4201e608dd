"""API keys and their file: who gets in, for how long, and what is kept of a secret."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from shepherd_auth.api_keys import ApiKey, KeyRing, issue
from shepherd_auth.authenticator import Authenticator
from shepherd_auth.errors import CredentialError, CredentialFileError, PermissionDeniedError
from shepherd_auth.identity import LOCAL, Identity, Scope, is_tenant
from shepherd_auth.key_file import KeyFile, read_keys, read_ring
from shepherd_auth.watched_file import WatchedFile

DAY_S = 86_400


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", now_unix_s=clock)


def create(keys: KeyFile, tenant: str = "acme", **options: int | None) -> tuple[ApiKey, str]:
    scopes = (Scope.READ, Scope.WRITE)
    return keys.create(name="n", tenant=tenant, scopes=scopes, **{"lifetime_s": None, **options})


def test_a_key_opens_its_tenant_with_its_scopes(
    keys: KeyFile, tmp_path: Path, clock: Clock
) -> None:
    key, text = create(keys)

    identity = read_ring(tmp_path / "keys.json").verify(text, clock())

    assert identity == Identity("acme", f"key:{key.key_id}", frozenset({Scope.READ, Scope.WRITE}))
    assert text.startswith(f"shp_{key.key_id}_")
    assert len(text) == len("shp_") + 12 + 1 + 64
    identity.require(Scope.WRITE)
    with pytest.raises(PermissionDeniedError, match="does not have the scope admin"):
        identity.require(Scope.ADMIN)


def test_the_secret_is_in_no_file(keys: KeyFile, tmp_path: Path) -> None:
    _, text = create(keys)

    kept = "".join(path.read_text() for path in tmp_path.iterdir())

    assert text not in kept
    assert text.rpartition("_")[2] not in kept
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("spoil", ["flip", "cut", "longer", "id", "upper", "empty", "no prefix"])
def test_a_key_that_is_not_exactly_right_is_refused(
    keys: KeyFile, tmp_path: Path, clock: Clock, spoil: str
) -> None:
    _, text = create(keys)
    other, _ = create(keys)
    wrong = {
        "flip": text[:-1] + ("0" if text[-1] != "0" else "1"),
        "cut": text[:-1],
        "longer": text + "0",
        "id": f"shp_{other.key_id}_{text.rpartition('_')[2]}",
        "upper": text.upper(),
        "empty": "",
        "no prefix": text.removeprefix("shp_"),
    }[spoil]

    with pytest.raises(CredentialError) as refused:
        read_ring(tmp_path / "keys.json").verify(wrong, clock())

    assert refused.value.reason in {"malformed", "unknown"}
    assert str(refused.value) == "not an API key of this service"


def test_a_key_ends_at_the_second_that_was_said(
    keys: KeyFile, tmp_path: Path, clock: Clock
) -> None:
    _, text = create(keys, lifetime_s=DAY_S)
    ring = read_ring(tmp_path / "keys.json")

    ring.verify(text, clock() + DAY_S - 1)
    with pytest.raises(CredentialError, match="has expired"):
        ring.verify(text, clock() + DAY_S)


def test_a_rotated_key_and_its_successor_both_open_until_the_overlap_is_over(
    keys: KeyFile, tmp_path: Path, clock: Clock
) -> None:
    old, old_text = create(keys, lifetime_s=30 * DAY_S)
    clock.now += 10 * DAY_S

    new, new_text = keys.rotate(old.key_id, overlap_s=3600)

    ring = read_ring(tmp_path / "keys.json")
    assert (new.tenant, new.scopes, new.name) == (old.tenant, old.scopes, old.name)
    assert new.expires_unix_s == clock() + 30 * DAY_S
    assert ring.verify(old_text, clock()).tenant == ring.verify(new_text, clock()).tenant == "acme"
    with pytest.raises(CredentialError, match="has expired"):
        ring.verify(old_text, clock() + 3600)
    ring.verify(new_text, clock() + 3600)


def test_a_revoked_key_is_unknown_to_a_running_service(
    keys: KeyFile, tmp_path: Path, clock: Clock
) -> None:
    key, text = create(keys)
    watched = WatchedFile(tmp_path / "keys.json", read_ring)
    assert watched.current().verify(text, clock()).tenant == "acme"

    keys.revoke(key.key_id)

    with pytest.raises(CredentialError):
        watched.current().verify(text, clock())
    with pytest.raises(KeyError):
        keys.revoke(key.key_id)


def test_a_file_that_became_unusable_leaves_what_was_known_in_force(
    keys: KeyFile, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = create(keys)
    path = tmp_path / "keys.json"
    reloads: list[bool] = []
    watched = WatchedFile(path, read_ring, lambda *, success: reloads.append(success))
    usable = path.read_text()

    path.write_text("{")
    for _ in range(3):
        assert watched.current().verify(text, clock()).tenant == "acme"
    path.unlink()
    assert watched.current().verify(text, clock()).tenant == "acme"
    assert reloads == [False, False], "told once a change"
    path.write_text(usable)
    path.chmod(0o600)
    assert watched.current().verify(text, clock()).tenant == "acme"
    assert reloads == [False, False, True]

    assert [r.levelname for r in caplog.records if r.levelno > logging.INFO] == ["ERROR"] * 2


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("{", 0o600, "is not a file of API keys"),
        ('{"version": 2}', 0o600, "has version 2, expected 1"),
        ('{"keys": [{"key_id": 5}]}', 0o600, "is not a file of API keys"),
        ('{"keys": []}', 0o644, "has mode 644, others may use it: chmod 600"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, content: str, mode: int, problem: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(mode)

    with pytest.raises(CredentialFileError, match=problem):
        read_keys(path)


def test_processes_that_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from shepherd_auth.key_file import KeyFile;"
        "from shepherd_auth.identity import Scope\n"
        "for n in range(5): KeyFile(Path(sys.argv[1]), now_unix_s=time.time)"
        ".create(name=str(n), tenant='t', scopes=[Scope.READ], lifetime_s=None)"
    )
    path = tmp_path / "keys.json"
    argv = [sys.executable, "-c", code, str(path)]
    making = [subprocess.Popen(argv, env=os.environ | {"PYTHONPATH": "components"}) for _ in "ab"]

    assert [process.wait(30) for process in making] == [0, 0]
    assert len({key.key_id for key in read_keys(path)}) == 10
    assert len(json.loads(path.read_text())["keys"]) == 10


@pytest.mark.parametrize("tenant", ["", "a b", "caf\u00e9", "\u0430cme", "x" * 129, "a\n", "*"])
def test_a_tenant_that_could_be_mistaken_for_another_is_no_tenant(tenant: str) -> None:
    assert not is_tenant(tenant)
    if tenant != "*":
        with pytest.raises(ValueError, match="visible ASCII"):
            issue(
                name="n",
                tenant=tenant,
                scopes=[Scope.READ],
                now_unix_s=0,
                expires_unix_s=None,
                random_bytes=secrets.token_bytes,
            )


def test_a_credential_for_any_tenant_acts_for_one_at_a_time_and_never_for_all() -> None:
    gateway = Identity("*", "key:1", frozenset({Scope.READ}))

    assert gateway.narrowed("acme").tenant == "acme"
    for nobody in (None, "", "*", "a b"):
        with pytest.raises(PermissionDeniedError, match="name one"):
            gateway.narrowed(nobody)
    assert not gateway.is_operator
    assert Identity("*", "key:1", frozenset({Scope.ADMIN})).is_operator
    assert not Identity("acme", "key:1", frozenset(Scope)).is_operator


def test_a_header_narrows_and_never_widens() -> None:
    acme = Identity("acme", "key:1", frozenset({Scope.READ}))

    assert acme.narrowed(None) == acme.narrowed("acme") == acme
    for other in ("acme2", "ACME", "*", "", "local"):
        with pytest.raises(PermissionDeniedError, match="another tenant"):
            acme.narrowed(other)


def test_credentials_are_taken_from_two_headers_and_nowhere_else(
    keys: KeyFile, tmp_path: Path, clock: Clock
) -> None:
    _, text = create(keys)
    ring = read_ring(tmp_path / "keys.json")
    door = Authenticator(keys=lambda: ring, now_unix_s=clock)

    assert door.identify({"authorization": f"Bearer {text}"}).tenant == "acme"
    assert door.identify({"authorization": f"bearer  {text} "}).tenant == "acme"
    assert door.identify({"x-api-key": text}).tenant == "acme"
    for headers, reason in [
        ({}, "missing"),
        ({"authorization": ""}, "missing"),
        ({"authorization": f"Basic {text}"}, "malformed"),
        ({"authorization": "Bearer"}, "malformed"),
        ({"authorization": "Bearer eyJ.e.f"}, "malformed"),
        ({"cookie": f"key={text}"}, "missing"),
    ]:
        with pytest.raises(CredentialError) as refused:
            door.identify(headers)
        assert refused.value.reason == reason


def test_without_any_credentials_everybody_is_the_local_tenant() -> None:
    door = Authenticator(now_unix_s=lambda: 0)

    assert door.is_open
    assert door.identify({"authorization": "Bearer anything"}) == LOCAL
    assert LOCAL.tenant == "local"


def test_an_empty_ring_opens_nothing() -> None:
    with pytest.raises(CredentialError):
        KeyRing([]).verify("shp_" + "0" * 12 + "_" + "0" * 64, 0)
