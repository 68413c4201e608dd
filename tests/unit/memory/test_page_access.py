"""Who comes in through the web page, and what a browser may do with it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from http.cookies import Morsel
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from memory_doors import House, Tenants, house
from openai_client import eventually
from shepherd_auth.identity import Scope
from shepherd_memory.ui.sign_in import COOKIE


class Browser:
    """A client with a jar of cookies that follows no redirection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        self.own = {"origin": url, "sec-fetch-site": "same-origin"}

    async def get(self, path: str, status: int = 200, **headers: str) -> str:
        return (await self.ask("GET", path, status, headers=headers))[0]

    async def ask(self, method: str, path: str, status: int, **more: Any) -> tuple[str, Any]:
        url = URL(f"{self.url}/ui{path}", encoded=True)
        async with self.client.request(method, url, allow_redirects=False, **more) as answer:
            text = await answer.text()
            assert answer.status == status, f"{path}: {answer.status} {text}"
            return text, answer

    async def post(
        self, path: str, status: int, fields: Mapping[str, str], headers: Any = None
    ) -> tuple[str, Any]:
        shown = self.own if headers is None else headers
        return await self.ask("POST", path, status, data=dict(fields), headers=shown)

    async def sign_in(self, key: str, status: int = 303, **fields: str) -> tuple[str, Any]:
        return await self.post("/sign-in", status, {"key": key} | fields)

    async def token(self, path: str) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', await self.get(path))
        assert found is not None
        return found[1]


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    return Tenants(tmp_path)


@pytest.fixture
async def door(tmp_path: Path, tenants: Tenants) -> AsyncIterator[House]:
    async with house(tmp_path / "data", **tenants.options) as opened:
        for tenant in ("acme", "globex"):
            name = tenants.archive_of(tenant)
            opened.talk(f"of-{tenant}", tenant=name)
            opened.evict(tenant=name)
        yield opened


@pytest.fixture
async def browser(door: House) -> AsyncIterator[Browser]:
    opened = Browser(door.url)
    yield opened
    await opened.client.close()


async def test_a_page_asks_for_a_key_and_then_goes_on_where_it_was(
    browser: Browser, tenants: Tenants
) -> None:
    _, answer = await browser.ask("GET", "/session?id=of-acme", 303)
    asked = answer.headers["location"]

    assert asked == "/ui/sign-in?next=%2Fui%2Fsession%3Fid%3Dof-acme"
    assert 'value="/ui/session?id=of-acme"' in await browser.get(asked.removeprefix("/ui"))

    key = tenants.key("acme")
    _, answer = await browser.sign_in(key, next="/ui/session?id=of-acme")
    cookie: Morsel[str] = answer.cookies[COOKIE]

    assert answer.headers["location"] == "/ui/session?id=of-acme"
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/ui")
    assert not cookie["secure"]
    assert key not in cookie.value
    assert "Where do cats sleep?" in await browser.get("/session?id=of-acme")


async def test_behind_tls_the_cookie_goes_over_tls_alone(
    browser: Browser, tenants: Tenants
) -> None:
    headers = browser.own | {"x-forwarded-proto": "https"}
    _, answer = await browser.post("/sign-in", 303, {"key": tenants.key("acme")}, headers)

    assert answer.cookies[COOKIE]["secure"]


@pytest.mark.parametrize(
    "following",
    ["https://evil.test/", "//evil.test/", "/ui//../evil", "/v1/export", "/ui/\\evil", "/ui/\n"],
)
async def test_signing_in_leads_nowhere_else(
    browser: Browser, tenants: Tenants, following: str
) -> None:
    _, answer = await browser.sign_in(tenants.key("acme"), next=following)

    assert answer.headers["location"] == "/ui/"


async def test_a_wrong_key_is_refused_and_counted_and_never_repeated(
    browser: Browser, door: House, tenants: Tenants
) -> None:
    wrong = tenants.key("acme")[:-4] + "0000"
    text, answer = await browser.sign_in(wrong, 401)

    assert "not an API key of this service" in text
    assert wrong not in text
    assert COOKIE not in answer.cookies
    assert (await browser.sign_in("", 401))[0].count('role="alert"') == 1
    await browser.sign_in(tenants.key("acme", Scope.WRITE), 403)
    metrics = await door.call("GET", "/metrics", admin=True, key=tenants.operator)
    assert 'shepherd_memory_auth_failures_total{reason="unknown"} 1.0' in metrics


async def test_a_tenant_sees_its_own_sessions_and_no_other(
    browser: Browser, tenants: Tenants
) -> None:
    await browser.sign_in(tenants.key("acme"))
    seen = "".join(
        [
            await browser.get(path)
            for path in ("/", "/sessions", "/search?query=cats", "/facts", "/session?id=of-acme")
        ]
    )

    assert "of-acme" in seen
    assert "globex" not in seen
    assert "blocks</small>" not in seen  # how full the caches are is all tenants' together
    await browser.get("/session?id=of-globex", 404)
    await browser.get("/forget?session=of-globex", 404)


async def test_a_key_for_any_tenant_names_one(browser: Browser, tenants: Tenants) -> None:
    gateway = tenants.key("*")
    text, _ = await browser.sign_in(gateway, 403)

    assert "name one in x-shepherd-tenant" in text

    await browser.sign_in(gateway, tenant="globex")

    assert "of-globex" in await browser.get("/")


async def test_a_revoked_key_and_a_sign_out_end_what_the_cookie_could(
    browser: Browser, tenants: Tenants
) -> None:
    key, another = tenants.key("acme"), tenants.key("acme")
    await browser.sign_in(key)
    token = await browser.token("/")
    tenants.keys.revoke(key.split("_")[1])
    await browser.get("/", 303)
    assert "<h1>Sign in" in await browser.get("/sign-in")

    await browser.sign_in(another)
    await browser.post("/sign-out", 403, {"form_token": token})
    await browser.post("/sign-out", 303, {"form_token": await browser.token("/")})
    await browser.get("/", 303)


async def test_a_credential_in_a_header_does_not_open_the_page(
    browser: Browser, tenants: Tenants
) -> None:
    await browser.get("/", 303, authorization=f"Bearer {tenants.key('acme')}")


async def test_forms_of_elsewhere_and_of_another_sign_in_change_nothing(
    browser: Browser, door: House, tenants: Tenants
) -> None:
    key = tenants.key("acme")
    await browser.sign_in(key)
    token = await browser.token("/forget?session=of-acme")
    fields = {"session": "of-acme", "turn": ""}
    good = fields | {"form_token": token}

    await browser.post("/forget", 403, fields)
    await browser.post("/forget", 403, fields | {"form_token": "0" * 64})
    await browser.post("/forget", 403, good, {"sec-fetch-site": "cross-site"})
    await browser.post("/forget", 403, good, {"sec-fetch-site": "same-site"})
    await browser.post("/forget", 403, good, {"origin": "http://evil.test"})
    await browser.post("/forget", 403, good, {})
    await browser.sign_in(key)
    await browser.post("/forget", 403, good)
    await browser.get("/forget?session=of-acme")
    await door.get("/v1/sessions/of-acme", key=key)

    token = await browser.token("/forget?session=of-acme")
    text, _ = await browser.post(
        "/forget", 200, fields | {"form_token": token}, {"origin": door.url}
    )

    assert "3 turns" in text
    await door.get("/v1/sessions/of-acme", 404, key=key)


async def test_a_notice_is_acknowledged_and_one_turn_forgotten(
    browser: Browser, door: House, tenants: Tenants
) -> None:
    key = tenants.key("acme")
    await browser.sign_in(key)
    (notice,) = (await door.get("/v1/notices?state=pending", key=key))["notices"]
    fields = {"form_token": await browser.token("/"), "notice": notice["notice_id"]}

    _, answer = await browser.post("/acknowledge", 303, fields | {"session": "of-acme"})

    assert answer.headers["location"] == "/ui/session?id=of-acme"
    assert (await door.get("/v1/notices?state=pending", key=key))["notices"] == []
    await browser.post("/acknowledge", 404, fields | {"notice": "unknown"})
    await browser.post("/acknowledge", 422, fields | {"notice": "two words"})

    turn = notice["archive_ids"][0]
    fields = {"form_token": await browser.token("/"), "session": "of-acme", "turn": turn}
    text, _ = await browser.post("/forget", 200, fields)

    assert "1 turn," in text
    assert turn not in json.dumps(await door.get("/v1/sessions/of-acme/turns", key=key))


async def test_who_may_only_read_is_offered_no_change_and_refused_one(
    browser: Browser, tenants: Tenants
) -> None:
    await browser.sign_in(tenants.key("acme", Scope.READ))
    page = await browser.get("/session?id=of-acme")

    assert "Forget" not in page
    assert "Acknowledge" not in page
    await browser.get("/forget?session=of-acme", 403)
    fields = {"form_token": await browser.token("/"), "session": "of-acme"}
    await browser.post("/forget", 403, fields)


async def test_every_answer_forbids_what_pages_do_not_need(
    browser: Browser, tenants: Tenants
) -> None:
    paths = {"/sign-in": 200, "/": 303, "/static/live.js": 200, "/nothing": 404, "/static/no": 404}
    for path, status in paths.items():
        _, answer = await browser.ask("GET", path, status)
        policy = answer.headers["content-security-policy"]

        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        stored = "no-cache" if path == "/static/live.js" else "no-store"
        assert answer.headers["cache-control"] == stored


async def test_the_audit_log_tells_of_pages_once_and_not_of_files(
    browser: Browser, tenants: Tenants, tmp_path: Path
) -> None:
    await browser.get("/static/shepherd.css")
    await browser.sign_in(tenants.key("acme"))
    await browser.get("/session?id=of-acme")
    await browser.get("/session?id=nobody", 404)
    await browser.get("/search?query=cats")

    async def written() -> list[str]:
        lines = (tmp_path / "audit.jsonl").read_text().splitlines()
        return lines if len(lines) >= 4 else []

    told = [json.loads(line) for line in await eventually(written)]

    assert [(each["action"], each["status"], each["tenant"]) for each in told] == [
        ("sign_in", 303, "acme"),
        ("session_page", 200, "acme"),
        ("session_page", 404, "acme"),
        ("search_page", 200, "acme"),
    ]
    assert "cats" not in json.dumps(told)


@pytest.mark.parametrize(
    "path",
    ["/session", "/session?id=", "/?before=0", "/?befor=1", "/search?k=0&query=x", "/search?k=a",
     "/facts?key=", "/session?id=of-acme&after=-1", "/forget", "/session?id=a&id=b"],
)  # fmt: skip
async def test_a_wrong_address_is_refused_on_a_page_that_says_why(
    browser: Browser, tenants: Tenants, path: str
) -> None:
    await browser.sign_in(tenants.key("acme"))
    text = await browser.get(path, 422)

    assert "<h1>Unprocessable" in text
    assert "is not valid" in text


async def test_without_credentials_the_page_is_open_to_this_machine_alone(tmp_path: Path) -> None:
    async with house(tmp_path) as door:
        door.talk()
        browser = Browser(door.url)
        async with browser.client:
            page = await browser.get("/")

            _, answer = await browser.ask("GET", "", 307)
            assert answer.headers["location"] == f"{door.url}/ui/"
            assert "Sign out" not in page
            assert "w1/0 device" in page
            _, answer = await browser.ask("GET", "/sign-in", 303)
            assert answer.headers["location"] == "/ui/"
            await browser.get("/", 400, host="evil.test")
            fields = {"session": "s", "form_token": await browser.token("/forget?session=s")}
            elsewhere = {"origin": "http://localhost:3000"}
            await browser.post("/forget", 403, fields, elsewhere)
            await browser.post("/forget", 200, fields)
