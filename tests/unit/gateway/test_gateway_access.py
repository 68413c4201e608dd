"""Who may come in, for whom, how often, and what goes upstream under which salt."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway_house import House, house
from shepherd_auth.identity import Scope
from shepherd_auth.key_file import KeyFile
from shepherd_auth.tenant_salts import TenantSalts
from shepherd_config import OptionError
from shepherd_gateway.config import load_config
from shepherd_gateway.fake import Said

QUESTION = {"role": "user", "content": "hello"}


class Keys:
    def __init__(self, directory: Path) -> None:
        self._file = KeyFile(directory / "keys.json", now_unix_s=time.time)
        salt = directory / "salt"
        salt.write_text(secrets.token_hex(32))
        salt.chmod(0o600)
        self.salts = TenantSalts.load(str(salt))
        self.memory_key = directory / "memory-key"
        self.memory_key.write_text("shp_of_the_gateway")
        self.acme = self.of("acme", Scope.READ, Scope.WRITE)
        self.options: dict[str, Any] = {
            "api_keys_file": str(directory / "keys.json"),
            "tenant_salt_file": str(salt),
            "memory_key_file": str(self.memory_key),
        }

    def of(self, tenant: str, *scopes: Scope) -> str:
        return self._file.create(name="k", tenant=tenant, scopes=scopes, lifetime_s=None)[1]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
async def door(keys: Keys) -> AsyncIterator[House]:
    async with house(**keys.options) as opened:
        yield opened


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", "x_dynamo_session_id": "s"}


async def test_a_key_says_the_tenant_its_salt_and_its_memory(door: House, keys: Keys) -> None:
    door.memory.hear("s", ("user", "one?"), ("assistant", "1"), tenant="acme")
    door.frontend.model = lambda body: (
        Said(("ok",))
        if body["messages"][-1]["role"] == "tool"
        else Said((), (("search_memory", '{"query": "x"}'),))
    )
    body = {"messages": [QUESTION], "cache_salt": "mine", "nvext": {"cache_salt": "mine"}}
    status, _, _ = await door.post({**body, "user": "other"}, **bearer(keys.acme))

    assert status == 200
    assert door.frontend.asked[0]["cache_salt"] == keys.salts.salt_of("acme")
    assert door.frontend.asked[0]["nvext"] == {}
    assert door.memory.searched == [("acme", "x")]
    assert "authorization" not in door.frontend.headers[0]


async def test_nobody_comes_in_without_a_valid_key(door: House) -> None:
    for headers in ({}, {"authorization": "Bearer shp_wrong"}, {"authorization": "Basic x"}):
        status, answer, told = await door.post({"messages": [QUESTION]}, **headers)

        assert (status, answer["error"]["type"]) == (401, "authentication_error")
        assert told["www-authenticate"] == "Bearer"
    assert door.frontend.asked == []


async def test_a_key_of_one_tenant_is_not_for_another_and_scopes_count(
    door: House, keys: Keys
) -> None:
    other = bearer(keys.acme) | {"x_shepherd_tenant": "other"}
    assert (await door.post({"messages": [QUESTION]}, **other))[0] == 403
    reader = bearer(keys.of("acme", Scope.READ))
    assert (await door.post({"messages": [QUESTION]}, **reader))[0] == 403
    anybody = bearer(keys.of("*", Scope.READ, Scope.WRITE))
    assert (await door.post({"messages": [QUESTION]}, **anybody))[0] == 403
    named = anybody | {"x_shepherd_tenant": "third"}
    assert (await door.post({"messages": [QUESTION]}, **named))[0] == 200
    assert door.frontend.asked[0]["cache_salt"] == keys.salts.salt_of("third")


async def test_details_and_metrics_are_the_operators_where_there_are_keys(door: House) -> None:
    async with door.http.get(f"{door.url}/metrics") as answer:
        assert answer.status == 404
    async with door.http.get(f"{door.url}/health") as answer:
        assert await answer.json() == {"status": "ok"}


async def test_a_tenant_that_asks_too_often_waits(keys: Keys) -> None:
    async with house(**keys.options, rate_limit_per_s=0.5, rate_limit_burst=1) as door:
        first, _, _ = await door.post({"messages": [QUESTION]}, **bearer(keys.acme))
        status, _, headers = await door.post({"messages": [QUESTION]}, **bearer(keys.acme))
        other = bearer(keys.of("other", Scope.READ, Scope.WRITE))
        third, _, _ = await door.post({"messages": [QUESTION]}, **other)

        assert (first, status, third) == (200, 429, 200)
        assert headers["retry-after"] == "2"


async def test_without_keys_salts_of_clients_do_not_count_either() -> None:
    async with house() as door:
        await door.chat([QUESTION], cache_salt="mine", nvext={"cache_salt": "x", "annotations": []})

        assert "cache_salt" not in door.frontend.asked[0]
        assert door.frontend.asked[0]["nvext"] == {"annotations": []}


async def test_without_keys_a_web_page_cannot_come_in() -> None:
    async with house() as door:
        url = f"{door.url}/v1/models"
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            async with door.http.get(url, headers=headers) as answer:
                assert answer.status == 400


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["--http-host", "0.0.0.0"], "--http-host"),
        (["--admin-host", "0.0.0.0"], "--admin-host"),
        (["--upstream", "localhost:8000"], "--upstream"),
        (["--upstream", "http://localhost:8000/v1"], "--upstream"),
        (["--upstream", ""], "--upstream"),
        (["--memory", "ftp://x"], "--memory"),
        (["--on-eviction", "forget"], "--on-eviction"),
        (["--max-tool-rounds", "0"], "--max-tool-rounds"),
        (["--memory-key-file", "/nowhere", "--api-keys-file", "/nowhere"], "--tenant-salt-file"),
    ],
)
def test_a_wrong_option_is_named(argv: list[str], flag: str) -> None:
    with pytest.raises(OptionError) as refused:
        load_config(argv, {})

    assert flag in str(refused.value)


def test_with_keys_the_memory_needs_one_too(keys: Keys) -> None:
    argv = ["--api-keys-file", keys.options["api_keys_file"]]
    argv += ["--tenant-salt-file", keys.options["tenant_salt_file"]]
    with pytest.raises(OptionError, match="--memory-key-file"):
        load_config(argv, {})
    load_config([*argv, "--memory", "none"], {})


async def test_a_trace_goes_on_to_the_frontend_and_the_process_says_what_it_is() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with house() as door:
        await door.post({"messages": [QUESTION]}, traceparent=trace)
        metrics = await door.metrics()

        assert door.frontend.headers[0]["traceparent"].split("-")[1] == trace.split("-")[1]
        assert metrics["shepherd_ready"] == 1
        assert any('component="gateway"' in name for name in metrics)
