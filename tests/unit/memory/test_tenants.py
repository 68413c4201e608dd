"""One tenant's words, on every surface, are nobody else's; who asks is said by the credential alone."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_doors import House, Tenants, house
from shepherd_auth.identity import Scope
from shepherd_config import OptionError
from shepherd_memory.config import load_config

NAMES = ["a", "a1", "a|b", "a/../b", "A"]


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    return Tenants(tmp_path)


@pytest.fixture
async def door(tmp_path: Path, tenants: Tenants) -> AsyncIterator[House]:
    async with house(tmp_path / "data", **tenants.options) as opened:
        yield opened


async def seen(door: House, key: str, **headers: str) -> str:
    """Everything that a key can read, as one text."""
    pages = [
        "/v1/sessions",
        "/v1/search?query=where+is+what+secret",
        "/v1/context?query=where+is+what+secret",
        "/v1/facts",
        "/v1/memories",
        "/v1/notices",
        "/v1/export",
        "/v1/stats",
    ]
    read = [json.dumps(await door.get(page, key=key, **headers)) for page in pages]
    for name, arguments in (
        ("search_memory", {"query": "where is what secret", "max_results": "20"}),
        ("list_facts", {}),
    ):
        answer = await door.call(
            "POST", f"/v1/tools/{name}", json={"arguments": arguments}, key=key, **headers
        )
        read.append(answer["content"])
    return "\n".join(read)


async def test_what_one_tenant_stores_no_other_reads_on_any_surface(
    door: House, tenants: Tenants
) -> None:
    keys = {tenant: tenants.key(tenant) for tenant in NAMES}
    for number, tenant in enumerate(NAMES):
        await fill_by_hand(door, keys[tenant], f"secret{number}")

    for number, tenant in enumerate(NAMES):
        text = await seen(door, keys[tenant])
        assert f"secret{number}" in text
        others = [other for other in range(len(NAMES)) if other != number]
        assert [other for other in others if f"secret{other}" in text] == []
        for other in others:
            await door.get(f"/v1/facts/secret{other}", 404, key=keys[tenant])


async def fill_by_hand(door: House, key: str, word: str) -> None:
    await door.call("PUT", f"/v1/facts/{word}", 204, json={"value": word}, key=key)
    body = {"question": f"what is {word}", "answer": word}
    await door.call("POST", "/v1/memories", 201, json=body, key=key)


async def test_turns_of_salted_requests_are_filed_under_the_tenant_of_the_salt(
    door: House, tenants: Tenants
) -> None:
    acme, globex = tenants.key("acme"), tenants.key("globex")
    door.talk("s", tenant=tenants.archive_of("acme"))
    door.evict(tenant=tenants.archive_of("acme"))

    hits = (await door.get("/v1/search?query=cats", key=acme))["hits"]
    assert [hit["session"] for hit in hits][:1] == ["s"]
    assert (await door.get("/v1/search?query=cats", key=globex))["hits"] == []
    await door.get("/v1/sessions/s", 404, key=globex)
    (notice,) = (await door.get("/v1/notices", key=acme))["notices"]
    await door.call("POST", f"/v1/notices/{notice['notice_id']}/ack", 404, key=globex)


async def test_the_same_pair_of_two_tenants_is_kept_twice_and_scores_do_not_mix(
    door: House, tenants: Tenants
) -> None:
    acme, globex = tenants.key("acme"), tenants.key("globex")
    body = {"question": "where do cats sleep", "answer": "everywhere"}
    await door.call("POST", "/v1/memories", 201, json=body, key=acme)
    before = (await door.get("/v1/search?query=cats+sleep", key=acme))["hits"]

    await door.call("POST", "/v1/memories", 201, json=body, key=globex)
    for number in range(5):
        more = {"question": f"cats {number}", "answer": "sleep"}
        await door.call("POST", "/v1/memories", 201, json=more, key=globex)

    assert (await door.get("/v1/search?query=cats+sleep", key=acme))["hits"] == before
    assert len((await door.get("/v1/memories", key=globex))["memories"]) == 6


async def test_erasing_one_tenant_leaves_every_other_file_as_it_is(
    door: House, tenants: Tenants, tmp_path: Path
) -> None:
    acme, globex = tenants.key("acme"), tenants.key("globex")
    await fill_by_hand(door, acme, "acmesecret")
    await fill_by_hand(door, globex, "globexsecret")

    erased = await door.call("DELETE", "/v1/archive", key=acme)

    assert (erased["turns"], erased["facts"]) == (1, 1)
    assert "acmesecret" not in await seen(door, acme)
    assert "globexsecret" in await seen(door, globex)
    on_disk = b"".join(
        path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()
    )
    assert b"acmesecret" not in on_disk
    assert b"globexsecret" in on_disk


@pytest.mark.parametrize("place", ["query", "body", "header", "user", "path"])
async def test_no_request_names_another_tenant(door: House, tenants: Tenants, place: str) -> None:
    acme, globex = tenants.key("acme"), tenants.key("globex")
    await fill_by_hand(door, acme, "acmesecret")
    body = {"question": "q", "answer": "a"}

    match place:
        case "query":
            await door.get("/v1/facts?tenant=acme", 422, key=globex)
        case "body":
            stolen = body | {"tenant": "acme"}
            await door.call("POST", "/v1/memories", 422, json=stolen, key=globex)
        case "user":
            stolen = {"arguments": {"query": "acmesecret", "user": "acme", "_user_id": "acme"}}
            answer = await door.call("POST", "/v1/tools/search_memory", json=stolen, key=globex)
            assert answer["content"].startswith("No archived conversations found")
        case "header":
            await door.get("/v1/facts", 403, key=globex, **{"x-shepherd-tenant": "acme"})
        case _:
            await door.get("/v1/facts/..%2F..%2Facme", 404, key=globex)


async def test_a_key_for_any_tenant_acts_for_the_one_that_it_names(
    door: House, tenants: Tenants
) -> None:
    await fill_by_hand(door, tenants.key("acme"), "acmesecret")
    gateway = tenants.key("*", Scope.READ)

    assert "acmesecret" in await seen(door, gateway, **{"x-shepherd-tenant": "acme"})
    assert "acmesecret" not in await seen(door, gateway, **{"x-shepherd-tenant": "acm"})
    for wrong in ({}, {"x-shepherd-tenant": "*"}, {"x-shepherd-tenant": ""}):
        problem = await door.get("/v1/facts", 403, key=gateway, **wrong)
        assert problem["field"] == "tenant"


async def test_every_route_needs_a_credential_and_its_scope(door: House, tenants: Tenants) -> None:
    document = await door.get("/openapi.json")
    reader, writer = tenants.key("acme", Scope.READ), tenants.key("acme", Scope.WRITE)
    refused = 0
    for path, operations in document["paths"].items():
        for method in operations:
            if path in {"/health", "/live"}:
                continue
            at = path.replace("{archive_id}", "0" * 64).format(
                session="s", notice="n", key="k", name="set_fact"
            )
            missing = await door.call(method.upper(), at, 401, key="")
            assert missing["status"] == 401
            await door.call(method.upper(), at, 401, key="shp_" + "0" * 12 + "_" + "0" * 64)
            wrong = writer if method == "get" or "/tools/" in path else reader
            problem = await door.call(method.upper(), at, 403, key=wrong)
            assert problem["field"] in {"read", "write", "admin"}
            refused += 1
    assert refused >= 22
    called = {"arguments": {"key": "k", "value": "v"}}
    await door.call("POST", "/v1/tools/set_fact", 403, json=called, key=reader)
    await door.call("DELETE", "/v1/archive", 403, key=writer)


async def test_the_operators_port_is_the_operators_alone(door: House, tenants: Tenants) -> None:
    for key in (tenants.key("acme"), tenants.key("*", Scope.READ)):
        await door.call("GET", "/admin/v1/archives", 403, key=key, admin=True)
    await door.call("GET", "/admin/v1/archives", 401, admin=True)
    await door.call("GET", "/admin/v1/archives", 404, key=tenants.operator)
    await door.call("GET", "/metrics", 404)
    assert await door.get("/health") == {"status": "ok"}

    await fill_by_hand(door, tenants.key("acme"), "secret")
    operator = {"key": tenants.operator, "admin": True}
    listed = await door.call("GET", "/admin/v1/archives?tenant=acme", **operator)
    assert listed == {"archives": [tenants.archive_of("acme")]}
    stats = await door.call("GET", f"/admin/v1/archives/{listed['archives'][0]}/stats", **operator)
    assert stats["facts"] == 1
    await door.call("GET", "/admin/v1/archives/nobody/stats", 404, **operator)
    assert "shepherd_memory_auth_failures_total" in await door.call("GET", "/metrics", admin=True)


async def test_keys_are_made_rotated_and_revoked_while_the_service_runs(
    door: House, tenants: Tenants
) -> None:
    operator = {"key": tenants.operator, "admin": True}
    asked = {"name": "n", "tenant": "acme", "scopes": ["read"]}
    made = await door.call("POST", "/admin/v1/keys", 201, json=asked, **operator)
    await door.get("/v1/facts", key=made["secret"])
    path = f"/admin/v1/keys/{made['key_id']}"

    rotated = await door.call("POST", f"{path}/rotate", 201, json={"overlap_s": 0}, **operator)
    await door.get("/v1/facts", 401, key=made["secret"])
    await door.get("/v1/facts", key=rotated["secret"])
    await door.call("DELETE", f"/admin/v1/keys/{rotated['key_id']}", 204, **operator)

    await door.get("/v1/facts", 401, key=rotated["secret"])
    listed = await door.call("GET", "/admin/v1/keys", **operator)
    assert "secret" not in json.dumps(listed)
    await door.call("DELETE", f"/admin/v1/keys/{rotated['key_id']}", 404, **operator)


async def test_a_tenant_that_asks_too_often_is_told_when_to_come_back(
    tmp_path: Path, tenants: Tenants
) -> None:
    limits = {"rate_limit_per_s": 0.5, "rate_limit_burst": 2}
    async with house(tmp_path / "data", **tenants.options, **limits) as door:
        acme, globex = tenants.key("acme"), tenants.key("globex")
        for _ in range(2):
            await door.get("/v1/facts", key=acme)

        headers = {"authorization": f"Bearer {acme}"}
        async with door.client.get("/v1/facts", headers=headers) as answer:
            assert (answer.status, answer.headers["retry-after"]) == (429, "2")
        await door.get("/v1/facts", key=globex)


async def test_a_full_tenant_can_read_and_forget_but_not_write(
    tmp_path: Path, tenants: Tenants
) -> None:
    async with house(tmp_path / "data", **tenants.options, tenant_max_mb=1) as door:
        acme = tenants.key("acme")
        words = {"value": os.urandom(30_000).hex()}
        for number in range(40):
            headers = {"authorization": f"Bearer {acme}"}
            async with door.client.put(
                f"/v1/facts/f{number}", json=words, headers=headers
            ) as answer:
                if answer.status == 429:
                    break
        assert (answer.status, answer.headers["retry-after"]) == (429, "3600")
        assert len((await door.get("/v1/facts", key=acme))["facts"]) == number
        await door.call("DELETE", "/v1/facts/f0/history", key=acme)
        await door.call("PUT", "/v1/facts/x", 204, json={"value": "y"}, key=tenants.key("b"))


async def test_who_did_what_is_kept_and_never_what_was_said(
    door: House, tenants: Tenants, tmp_path: Path
) -> None:
    acme = tenants.key("acme")
    await fill_by_hand(door, acme, "canary")
    await door.get("/v1/search?query=canary", key=acme)
    await door.get("/v1/sessions/s7", 404, key=acme)
    await door.get("/v1/facts", 401, key="shp_x")
    await door.call("DELETE", "/v1/archive", 403, key=tenants.key("acme", Scope.READ))

    async def lines() -> int:
        return len((tmp_path / "audit.jsonl").read_text().splitlines())

    await door.settled(lines, 6)
    entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(e["action"], e["outcome"], e["tenant"]) for e in entries] == [
        ("set_fact", "ok", "acme"),
        ("store_memory", "ok", "acme"),
        ("search", "ok", "acme"),
        ("get_session", "denied", "acme"),
        ("list_facts", "denied", ""),
        ("forget_everything", "denied", "acme"),
    ]
    assert entries[2]["count"] == 1
    assert "canary" not in (tmp_path / "audit.jsonl").read_text()
    assert acme not in (tmp_path / "audit.jsonl").read_text()


async def test_no_word_of_a_tenant_is_in_metrics_or_logs(
    door: House, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shepherd_memory")
    acme = tenants.key("acme")
    await fill_by_hand(door, acme, "canary")
    await seen(door, acme)
    assert (await door.get("/v1/search?query=canary", key=acme))["hits"]
    await door.get("/v1/sessions/canary%00", 422, key=acme)

    metrics = door.means.metrics.render().decode()
    for secret in ("canary", acme, "acme"):
        assert secret not in metrics
        assert secret not in caplog.text


def test_no_listener_beyond_loopback_without_credentials(tmp_path: Path, tenants: Tenants) -> None:
    for flag in ("--http-host", "--admin-host"):
        with pytest.raises(OptionError, match="a loopback address, or credentials"):
            load_config([flag, "0.0.0.0"], {})
    keys = ["--api-keys-file", tenants.options["api_keys_file"]]
    with pytest.raises(OptionError, match="--tenant-salt-file"):
        load_config(keys, {})
    with pytest.raises(OptionError, match="--jwt-issuer and --jwt-audience"):
        load_config(["--jwks-file", "x"], {})
    with pytest.raises(OptionError, match="cannot be read"):
        load_config(["--api-keys-file", "nowhere", "--tenant-salt-file", "x"], {})

    salt = ["--tenant-salt-file", tenants.options["tenant_salt_file"]]
    assert load_config([*keys, *salt, "--http-host", "0.0.0.0"], {}).config.has_credentials
