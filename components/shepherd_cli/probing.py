"""Asking over HTTP whether somebody is there."""

from __future__ import annotations

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=2)


async def answers(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether something says 200 at a URL, within two seconds."""
    try:
        async with http.get(url, timeout=_TIMEOUT) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def offers(http: aiohttp.ClientSession, frontend: str, model: str) -> bool:
    """Whether a frontend offers a model, and so has all the workers that it needs."""
    try:
        async with http.get(frontend + "/v1/models", timeout=_TIMEOUT) as response:
            listed = await response.json(content_type=None)
            return any(entry["id"] == model for entry in listed["data"])
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        return False
