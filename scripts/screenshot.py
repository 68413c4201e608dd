"""Take docs/images/memory.png: the memory's page, with the demo's story on the real system.

    python scripts/screenshot.py [FILE]

Ada tells three things, others crowd them out of both caches, she comes back and asks;
then a headless Chromium looks at her session.  Needs Chromium, and the group `test`.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import async_playwright

from shepherd_cli import story
from shepherd_cli.chat import Conversation
from shepherd_cli.demo import ARCHIVE_TIMEOUT_S, NUM_KV_BLOCKS
from shepherd_cli.small_system import MODEL_NAME, Running, start
from shepherd_cli.stack import Stack
from shepherd_tiny_chat import MODEL_DIR

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 1000
COLOURS = 128
"""As many as a page of text and boxes has; the file stays below 200 kB."""


async def tell(stack: Stack, running: Running) -> None:
    """The demo's story, without what it checks."""
    ada = Conversation(stack.http, running.gateway.url, MODEL_NAME, session_id=story.ADA)
    for said in (*story.FACTS, story.GOODBYE):
        await say(ada, said)
    for guest in story.GUESTS:
        chat = Conversation(stack.http, running.frontend.url, MODEL_NAME, session_id=guest)
        for question in story.questions_of(guest):
            await say(chat, question)
    await running.memory.process.until(
        lambda: has_archived(stack, running), timeout_s=ARCHIVE_TIMEOUT_S, what="through with Ada"
    )
    answer = await say(ada, story.QUESTION)
    if not story.is_right(answer):
        raise SystemExit(f"Ada was answered {answer!r}: nothing to be proud of")


async def say(chat: Conversation, words: str) -> str:
    """One exchange; the answer."""
    return "".join([piece async for piece in chat.say(words)])


async def has_archived(stack: Stack, running: Running) -> bool:
    """Whether what Ada told has left the caches."""
    url = f"{running.memory.url}/v1/sessions/{story.ADA}/turns"
    turns = (await stack.get_json(url))["turns"]
    return sum(turn["state"] == "archived" for turn in turns) >= len(story.FACTS)


async def picture(url: str) -> bytes:
    """What Chromium shows, as PNG."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"no browser: expected one of {', '.join(BROWSERS)}")
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program, args=arguments)
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        await page.goto(url, wait_until="load")
        png = await page.screenshot()
        await browser.close()
    return png


async def taken() -> bytes:
    """Start, tell, look."""
    with tempfile.TemporaryDirectory() as directory:
        async with Stack(Path(directory)) as stack:
            running = await start(stack, MODEL_DIR, num_kv_blocks=NUM_KV_BLOCKS)
            await tell(stack, running)
            return await picture(f"{running.memory.url}/ui/session?id={story.ADA}")


def main(path: Path) -> None:
    """Write the picture small."""
    image = Image.open(io.BytesIO(asyncio.run(taken()))).quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/memory.png"))
