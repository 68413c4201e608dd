"""A web server on loopback that serves pictures well and badly, and DNS of our own."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from shepherd_worker.image import DecodedImage


def png(image: DecodedImage, kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.frombytes("RGB", (image.width, image.height), image.rgb).save(file, kind)
    return file.getvalue()


def data_url(image: DecodedImage) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


@dataclass
class FakeResolver:
    """Answers from a table; a name with several answers gives the next one each time."""

    table: dict[str, list[list[str]]]
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self.table.get(host)
        if answers is None:
            raise OSError(f"{host} is not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class MediaServer:
    """The server's port, and what it was asked."""

    port: int
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"


@asynccontextmanager
async def media_server(picture: bytes) -> AsyncIterator[MediaServer]:
    """Serves `picture` under several names within the block."""
    state = MediaServer(0)

    async def answer(request: web.Request) -> web.StreamResponse:
        state.paths.append(request.path)
        state.headers.append(dict(request.headers))
        if request.path == "/endless.png":
            return await _stream(request, b"x" * 65536, delay_s=0)
        if request.path == "/slow.png":
            return await _stream(request, b"x", delay_s=0.05)
        if request.path == "/silent.png":
            await state.released.wait()
        return _respond(request.path.strip("/").split("/"), picture)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    state.port = runner.addresses[0][1]
    try:
        yield state
    finally:
        state.released.set()
        await runner.cleanup()


def _respond(parts: list[str], picture: bytes) -> web.Response:
    match parts:
        case ["cat.png" | "binary" as name]:
            kind = "image/png" if name == "cat.png" else "application/octet-stream"
            return web.Response(body=picture, content_type=kind)
        case ["page.html"]:
            return web.Response(text="<html>", content_type="text/html")
        case ["squeezed.png"]:
            squeezed = {"Content-Encoding": "gzip", "Content-Type": "image/png"}
            return web.Response(body=gzip.compress(picture), headers=squeezed)
        case ["hop", count]:
            where = f"/hop/{int(count) - 1}" if int(count) else "/cat.png"
            return web.Response(status=302, headers={"Location": where})
        case ["to", *rest]:
            return web.Response(status=307, headers={"Location": "/".join(rest)})
        case _:
            return web.Response(status=404)


async def _stream(request: web.Request, chunk: bytes, *, delay_s: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "image/png"})
    await response.prepare(request)
    for _ in range(10_000):
        await response.write(chunk)
        await asyncio.sleep(delay_s)
    return response
