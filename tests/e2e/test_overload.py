"""More requests than one worker takes: the rest are told when to come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openai_client import MODEL, Client, health
from shepherd_cli.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


async def test_requests_beyond_the_queue_get_429_and_the_others_their_whole_answer(
    stack: Stack, model_dir: Path
) -> None:
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

    answers = await asyncio.gather(*(client.post("chat/completions", body) for _ in range(12)))

    served = [answer for status, answer in answers if status == 200]
    refused = [answer for status, answer in answers if status == 429]
    assert (len(served), len(refused)) == (3, 9)
    assert {answer["usage"]["completion_tokens"] for answer in served} == {200}
    assert len({str(answer["choices"][0]["message"]) for answer in served}) == 1
    for answer in refused:
        assert "the limit is 2: retry after" in str(answer)
    counts = (await health(stack, worker))["requests"]
    assert counts == {"in_progress": 0, "running": 0, "waiting": 0}
