"""More requests than one worker takes: the rest are told when to come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openai_client import MODEL, Client, health
from shepherd_cli.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


async def test_requests_beyond_the_queue_get_429_and_the_others_their_whole_answer(
    stack: Stack, model_dir: Path, record_property: Callable[[str, Any], None]
) -> None:
    """The report tells how long those admitted took, beside as many one after the other."""
    args = ("--model", str(model_dir), "--served-model-name", MODEL)
    limits = ("--max-batch-size", "1", "--max-waiting", "2")
    worker = await stack.worker("worker", *args, *limits)
    frontend = await stack.frontend()
    await stack.model_served(frontend, MODEL)
    client = Client(stack, frontend, MODEL)
    body = {
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 200,
        "temperature": 0,
        "ignore_eos": True,
    }

    began_s = time.monotonic()
    for _ in range(3):
        assert (await client.post("chat/completions", body))[0] == 200
    one_by_one_s = time.monotonic() - began_s
    began_s = time.monotonic()
    answers = await asyncio.gather(*(client.post("chat/completions", body) for _ in range(12)))
    together_s = time.monotonic() - began_s

    served = [answer for status, answer in answers if status == 200]
    refused = [answer for status, answer in answers if status == 429]
    assert (len(served), len(refused)) == (3, 9)
    assert {answer["usage"]["completion_tokens"] for answer in served} == {200}
    assert len({str(answer["choices"][0]["message"]) for answer in served}) == 1
    for answer in refused:
        assert "the limit is 2: retry after" in str(answer)
    counts = (await health(stack, worker))["requests"]
    assert counts == {"in_progress": 0, "running": 0, "waiting": 0}
    record_property("injected", "12 requests at once, room for 3")
    record_property("three_one_by_one_s", round(one_by_one_s, 3))
    record_property("three_of_twelve_s", round(together_s, 3))
