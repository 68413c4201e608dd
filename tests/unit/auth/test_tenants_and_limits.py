"""Salts, rates and the audit log: what belongs to a tenant stays with it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_auth.audit import AuditEntry, AuditLog
from shepherd_auth.errors import CredentialFileError
from shepherd_auth.rate_limit import RateLimiter
from shepherd_auth.tenant_salts import TenantSalts
from shepherd_events.block_hash import root_hash, salt_id

SECRET = bytes(range(32))


def test_the_name_on_the_stream_is_what_a_worker_makes_of_the_salt() -> None:
    salts = TenantSalts(SECRET)

    # HMAC-SHA-256 over the domain, a zero byte and the name, as Python and openssl have it
    assert salts.salt_of("acme") == (
        "c0207b0480e654d83e18431285dbef4509a771c5752774f35b96edfb305ddd13"
    )
    assert salts.stream_name_of("acme") == salt_id(salts.salt_of("acme")).hex()
    assert len(salts.stream_name_of("acme")) == 16


def test_the_local_tenant_has_no_salt() -> None:
    salts = TenantSalts(SECRET)

    assert (salts.salt_of("local"), salts.stream_name_of("local")) == ("", "local")


def test_tenants_and_secrets_never_share_a_block() -> None:
    names = ["a", "a1", "a|b", "a/../b", "A"]
    salts = [TenantSalts(secret).salt_of(n) for n in names for secret in (SECRET, bytes(32))]

    assert len({root_hash(b"m", cache_salt=salt) for salt in salts}) == len(salts)


@pytest.mark.parametrize("content", ["", "00" * 31, "00" * 33, "zz" * 32])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "salt"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(CredentialFileError, match="expected 64 hex digits"):
        TenantSalts.load(str(path))
    path.write_text("00" * 32 + "\n")
    path.chmod(0o640)
    with pytest.raises(CredentialFileError, match="others may use it"):
        TenantSalts.load(str(path))


def test_a_burst_is_served_and_then_one_request_each_interval() -> None:
    limiter = RateLimiter(2.0, 3)

    assert [limiter.take("a", 10.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert limiter.take("b", 10.0) == 0
    assert limiter.take("a", 10.25) == 0.25
    assert limiter.take("a", 10.5) == 0
    assert limiter.take("a", 1000.0) == 0
    assert limiter.take("a", 900.0) == 0  # a clock that goes back gives nothing and takes nothing


def test_the_number_of_buckets_is_bounded() -> None:
    limiter = RateLimiter(1.0, 1, max_tenants=2)
    for tenant in "abc":
        limiter.take(tenant, 0.0)

    assert repr(limiter) == "<RateLimiter 1/s, 2 tenants>"
    assert limiter.take("c", 0.0) == 1


@given(st.lists(st.floats(0, 0.5), max_size=60), st.integers(1, 5))
def test_no_schedule_gets_more_than_burst_and_rate(pauses: list[float], burst: int) -> None:
    limiter, now, served = RateLimiter(4.0, burst), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = limiter.take("t", now)
        served += wait_s == 0
        assert 0 <= wait_s <= 0.25

    assert served <= burst + 4.0 * now + 1e-6


def entry(action: str, status: int = 200, **more: object) -> AuditEntry:
    return AuditEntry(0.5, "key:1", "acme", action, status, **more)  # type: ignore[arg-type]


def test_the_audit_log_is_appended_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for action in ("search", "forget"):
        audit = AuditLog(path)
        audit.record(entry(action, count=3, session="s"))
        audit.record(entry(action, 403))
        audit.close()

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "at": "1970-01-01T00:00:00.500+00:00",
        "subject": "key:1",
        "tenant": "acme",
        "action": "search",
        "outcome": "ok",
        "status": 200,
        "count": 3,
        "session": "s",
    }
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("search", "ok"),
        ("search", "denied"),
        ("forget", "ok"),
        ("forget", "denied"),
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_the_audit_log_lost_is_counted_and_told(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.jsonl", queue_length=2)
    for _ in range(5000):
        audit.record(entry("search"))
    lost = -1
    while lost != audit.lost:  # until an entry finds room
        lost = audit.lost
        audit.record(entry("last"))
        time.sleep(0.001)
    audit.close()

    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert audit.lost > 0
    assert sum(line.get("lost_before", 0) for line in lines) == audit.lost
    assert len([line for line in lines if line["action"] == "search"]) < 5000
