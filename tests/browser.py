"""A headless Chromium that looks at our pages, and what it had to complain of."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
WHY_NOT = f"no browser is installed: expected one of {', '.join(NAMES)} (apt-get install chromium)"


def executable() -> str | None:
    """The browser of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    async with async_playwright() as driver:
        arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        browser = await driver.chromium.launch(executable_path=executable(), args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


class Reader:
    """One page of the browser, and everything that went wrong on it."""

    def __init__(self, context: BrowserContext, page: Page, url: str) -> None:
        self.context = context
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        page.on("requestfailed", self._on_failure)

    async def go(self, path: str) -> None:
        """Load a page of ours."""
        await self.page.goto(f"{self.url}/ui{path}", wait_until="load")

    async def text(self) -> str:
        return await self.page.inner_text("body")

    async def violations(self) -> list[str]:
        """What axe-core finds, as rule and place."""
        found = await Axe().run(self.page)
        return [
            f"{each['id']} at {node['target']}: {node['failureSummary']}"
            for each in found.response["violations"]
            for node in each["nodes"]
        ]

    async def picture(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def _on_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _on_failure(self, request: Any) -> None:
        if request.resource_type != "eventsource" and request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.url} {request.failure}")


@asynccontextmanager
async def reading(browser: Browser, url: str, **options: Any) -> AsyncIterator[Reader]:
    """A reader who ends without a complaint."""
    options.setdefault("viewport", {"width": 1280, "height": 860})
    context = await browser.new_context(**options)
    try:
        reader = Reader(context, await context.new_page(), url)
        yield reader
    finally:
        await context.close()
    assert reader.complaints == []
