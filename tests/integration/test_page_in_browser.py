"""The memory's web page in a headless Chromium: seen, heard, used with keys, attacked, kept current.

Every reader ends without a word on its console: no error, no violation of the
content security policy.  Screenshots of all views lie in build/screenshots.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from browser import WHY_NOT, executable, launched, reading
from memory_doors import House, Tenants, house
from page_samples import LISBON, blocks_of, evict, fill, talk
from shepherd_memory.memory import Memory

pytestmark = [
    pytest.mark.skipif(executable() is None, reason=WHY_NOT),
    pytest.mark.asyncio(loop_scope="module"),
]

NOW_NS = 1_795_000_100_000_000_000
VIEWS = {
    "overview": "/",
    "session": "/session?id=trip-to-lisbon",
    "search": "/search?query=harbour+tide&session=&k=10",
    "facts": "/facts",
    "fact": "/facts?key=city",
    "sessions": "/sessions",
    "forget": "/forget?session=trip-to-lisbon",
}
CANARY = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'{{7*7}}\u202e"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A service with turns of every standing; nobody changes it."""
    async with house(tmp_path_factory.mktemp("page"), now_unix_ns=NOW_NS) as door:
        fill(door)
        memory = Memory("local", door.means)
        await memory.search("tide noon", k=1, session="trip-to-lisbon")
        for key, value in (("city", "Lisbon"), ("city", "Porto"), ("diet", "no shellfish")):
            await memory.set_fact(key, value)
        await memory.store_memory("What is the door code?", "4711, then the bell.")
        yield door


@pytest_asyncio.fixture(loop_scope="module")
async def changing(tmp_path: Path) -> AsyncIterator[House]:
    """A service with one conversation, all of it cached."""
    async with house(tmp_path, now_unix_ns=NOW_NS) as door:
        talk(door, "trip-to-lisbon", LISBON)
        yield door


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
async def test_every_view_is_free_of_barriers_and_fits_its_window(
    browser: Browser, filled: House, scheme: Any, width: int
) -> None:
    window = {"width": width, "height": 860}
    async with reading(browser, filled.url, color_scheme=scheme, viewport=window) as reader:
        for name, path in VIEWS.items():
            await reader.go(path)
            if name == "session":
                await reader.page.locator("summary").nth(1).click()
            await reader.picture(f"{name}-{scheme}-{width}")

            assert await reader.violations() == [], name
            assert await reader.page.evaluate("document.documentElement.scrollWidth") <= width
            assert await reader.page.locator("h1").count() == 1


async def test_the_timeline_says_of_each_turn_where_it_is(browser: Browser, filled: House) -> None:
    async with reading(browser, filled.url) as reader:
        await reader.go("/session?id=trip-to-lisbon")
        standings = await reader.page.locator(".turn .standing").all_inner_texts()
        tally = await reader.page.locator(".tally").inner_text()
        blocks = await reader.page.locator(".cached > .muted").all_inner_texts()

        assert [re.sub(r"^\S\s*", "", each) for each in standings] == [
            "archived",
            "recalled",
            "partly in host memory",
            "partly in host memory",
            "partly on disk or farther",
            "on a device",
        ]
        for part in ("1 on a device", "2 in host memory", "1 archived", "1 recalled"):
            assert part in re.sub(r"\s+", " ", tally)
        assert blocks[0] == "0 of 32 blocks cached"
        assert blocks[5] == "30 of 30 blocks cached"

        await reader.go("/session?id=standup/monday")
        assert "evicted, the newest turn: kept live" in await reader.text()


async def test_a_search_marks_the_words_and_leads_to_the_turn(
    browser: Browser, filled: House
) -> None:
    async with reading(browser, filled.url) as reader:
        await reader.go("/search")
        await reader.page.get_by_label("Words").fill("harbour tide")
        await reader.page.keyboard.press("Enter")

        await expect(reader.page.locator("h2")).to_have_text("2 archived turns")
        assert sorted(await reader.page.locator("mark").all_inner_texts()) == ["harbour", "tide"]

        await reader.page.get_by_role("link", name="trip-to-lisbon, turn 2").click()
        await expect(reader.page.locator(".turn:target h3")).to_have_text(LISBON[2][1])


async def test_without_scripts_everything_can_be_read_and_changed(
    browser: Browser, changing: House
) -> None:
    evict(changing, blocks_of(LISBON)[:40])
    async with reading(browser, changing.url, java_script_enabled=False) as reader:
        await reader.go("/")
        assert await reader.page.locator("#live").is_hidden()
        await reader.page.get_by_role("link", name="trip-to-lisbon").first.click()
        await reader.page.locator("summary").first.click()
        assert LISBON[1][1] in await reader.text()

        await reader.page.get_by_role("button", name="Acknowledge").click()
        assert "acknowledged" in await reader.text()

        await reader.page.get_by_role("link", name="Forget this session").click()
        await reader.page.get_by_role("button", name="Forget for good").click()
        assert "6 turns" in await reader.text()
        await reader.page.get_by_role("link", name="Back to the overview").click()
        assert "Nothing was said yet" in await reader.text()


async def test_an_eviction_appears_without_reloading_and_disturbs_nobody(
    browser: Browser, changing: House
) -> None:
    async with reading(browser, changing.url, reduced_motion="reduce") as reader:
        page = reader.page
        await reader.go("/session?id=trip-to-lisbon")
        await expect(page.locator("#live")).to_have_class(re.compile("connected"))
        await page.evaluate("window.notReloaded = true")
        await page.locator("summary").nth(2).click()
        await page.locator("summary").nth(3).focus()
        evict(changing, blocks_of(LISBON)[:25])

        await expect(page.locator(".turn").first).to_have_attribute("data-standing", "archived")
        await expect(page.locator(".feed li")).to_have_count(1)
        await expect(page.locator("#said")).to_have_text("5 on a device, 1 archived")
        assert await page.evaluate("window.notReloaded")
        assert await page.locator("details").nth(2).get_attribute("open") is not None
        assert await page.locator("summary").nth(3).evaluate("e => e === document.activeElement")
        assert await page.locator(".turn.changed").count() == 1
        moving = "getComputedStyle(document.querySelector('.turn.changed')).animationName"
        assert await page.evaluate(moving) == "none"
        assert await reader.violations() == []

        await page.locator("#live").click()
        await expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
        evict(changing, blocks_of(LISBON)[25:60])
        await page.locator("#live").click()
        await expect(page.locator(".turn.archived")).to_have_count(3)


async def test_what_somebody_has_selected_stays_until_they_let_go_of_it(
    browser: Browser, changing: House
) -> None:
    async with reading(browser, changing.url) as reader:
        page = reader.page
        await reader.go("/session?id=trip-to-lisbon")
        await expect(page.locator("#live")).to_have_class(re.compile("connected"))
        await page.locator(".turn h3").first.select_text()
        async with page.expect_event("console", lambda said: said.text == "told"):
            await page.evaluate(
                """() => {
                    const told = new EventSource(document.body.dataset.liveUrl);
                    told.addEventListener("change", () => { told.close(); console.log("told"); });
                    told.addEventListener("open", () => document.body.classList.add("hears"));
                }"""
            )
            await expect(page.locator("body.hears")).to_have_count(1)
            evict(changing, blocks_of(LISBON)[:25])
        assert await page.evaluate("getSelection().toString()") == LISBON[0][1]
        assert await page.locator(".turn.archived").count() == 0

        await page.evaluate("getSelection().empty()")
        await expect(page.locator(".turn.archived")).to_have_count(1)


async def test_a_turn_that_moves_to_another_tier_is_followed_on_the_overview(
    browser: Browser, changing: House
) -> None:
    async with reading(browser, changing.url) as reader:
        await reader.go("/")
        await expect(reader.page.locator("#live")).to_have_class(re.compile("connected"))
        newest = blocks_of(LISBON)[-3:]
        changing.consumer.apply([changing.worker.evict(newest)])  # archives nothing

        await expect(reader.page.locator(".box").last).to_have_attribute("data-standing", "evicted")


async def test_the_keyboard_alone_leads_through_the_page(browser: Browser, filled: House) -> None:
    async with reading(browser, filled.url) as reader:
        page = reader.page
        await reader.go("/session?id=trip-to-lisbon")
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await expect(page.locator(".skip")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Forget this session")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.locator(".box").first).to_be_focused()
        assert (
            await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        )
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.locator("summary").first).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("details").first).to_have_attribute("open", "")


async def test_what_others_wrote_is_shown_and_never_run(browser: Browser, changing: House) -> None:
    session = "<script>alert(0)</script>\"'&x=1/../#"
    talk(changing, session, [("user", CANARY), ("assistant", CANARY), ("user", "b"), ("user", "c")])
    changing.consumer.apply(
        [changing.worker.evict(changing.worker.blocks_of([("user", CANARY)])[:3])]
    )
    memory = Memory("local", changing.means)
    await memory.set_fact(CANARY, CANARY)
    await memory.store_memory(CANARY, CANARY)
    async with reading(browser, changing.url) as reader:
        for path in ("/", "/sessions", "/facts", "/search?query=alert+onerror"):
            await reader.go(path)
            assert "alert(" in await reader.text(), path
            assert await reader.page.locator("main img, main script").count() == 0
            assert await reader.violations() == [], path
        await reader.go("/sessions")
        await reader.page.get_by_role("link", name=session).click()
        await reader.page.locator("summary").first.click()
        text = await reader.text()
        assert session in text
        assert text.count("onerror=alert(1)") >= 3
        assert "{{7*7}}" in text
        assert await reader.page.title() == f"{session} · Shepherd memory"
        await reader.page.get_by_role("link", name="Forget this session").click()
        await reader.page.get_by_role("button", name="Forget for good").click()
        await expect(reader.page.locator("h1")).to_have_text("Forgotten")
        await reader.go("/facts")
        await reader.page.get_by_role("link", name="onerror").click()
        await expect(reader.page.locator("td.value").first).to_contain_text("onerror")


async def test_signing_in_is_free_of_barriers_and_keeps_the_key_from_scripts(
    browser: Browser, tmp_path: Path
) -> None:
    tenants = Tenants(tmp_path)
    key = tenants.key("acme")
    async with house(tmp_path / "data", **tenants.options) as door:
        talk_of_tenant(door, tenants.archive_of("acme"))
        async with reading(browser, door.url) as reader:
            await reader.go("/session?id=s")
            await reader.picture("sign-in-light-1280")
            assert await reader.violations() == []
            await reader.page.get_by_label("API key or token").fill(key)
            await reader.page.keyboard.press("Enter")
            await expect(reader.page.locator("h1")).to_have_text("Session s")
            await expect(reader.page.locator("#live")).to_have_class(re.compile("connected"))
            assert await reader.page.evaluate("document.cookie") == ""
            assert key not in await reader.page.content()
            await reader.page.get_by_role("button", name="Sign out").click()
            await expect(reader.page.locator("h1")).to_have_text("Sign in")


def talk_of_tenant(door: House, name: str) -> None:
    door.talk("s", tenant=name)
    door.evict(tenant=name)


async def test_a_page_cannot_be_made_to_run_a_script_of_its_own(
    browser: Browser, filled: House
) -> None:
    """The policy is what a browser enforces, not only what we say."""
    async with reading(browser, filled.url) as reader:
        await reader.go("/")
        async with reader.page.expect_console_message() as said:
            directive = await reader.page.evaluate(
                """() => new Promise((resolve) => {
                    const told = (event) => resolve(event.effectiveDirective);
                    document.addEventListener("securitypolicyviolation", told);
                    const script = document.createElement("script");
                    script.append(document.createTextNode("window.ran = true"));
                    document.body.append(script);
                })"""
            )
        assert "has been blocked" in (await said.value).text
        assert directive in {"require-trusted-types-for", "script-src-elem"}
        assert not await reader.page.evaluate("window.ran === true")
        reader.complaints.clear()
