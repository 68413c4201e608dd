"""A worker is killed or frozen while it answers: the client reads what it would have read."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openai_client import MODEL, Client, eventually, health
from shepherd_cli.chat import server_sent_events
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
PROMPT = "count the sheep on the hill"
NUM_TOKENS = 400
MIDDLE = 20


async def pieces(client: Client) -> AsyncIterator[str]:
    """The text of a greedy streamed completion, as it comes."""
    body = {
        "model": client.model,
        "prompt": PROMPT,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    url = f"{client.frontend.url}/v1/completions"
    async with client.stack.http.post(url, json=body) as response:
        async for event in server_sent_events(response.content):
            for choice in event["choices"]:
                yield choice["text"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(stack: Stack, tiny_chat_model: Path) -> tuple[Client, list[Service]]:
    """Two workers of one model behind a frontend that gives an unfinished answer to the other."""
    args = ("--model", str(tiny_chat_model), "--served-model-name", MODEL)
    async with asyncio.TaskGroup() as tasks:
        migrating = ("--migration-limit", "3")
        frontend = tasks.create_task(stack.frontend(*migrating, router_mode="round-robin"))
        workers = [tasks.create_task(stack.worker(f"worker-{n}", *args)) for n in range(2)]
    await stack.model_served(frontend.result(), MODEL)
    return Client(stack, frontend.result(), MODEL), [worker.result() for worker in workers]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(pair: tuple[Client, list[Service]]) -> str:
    """The text of an answer that nothing happened to.

    Of whole characters: in the middle of one, Dynamo's frontend shows an answer
    that was moved otherwise.
    """
    text = "".join([piece async for piece in pieces(pair[0])])
    assert "\ufffd" not in text
    return text


async def disturbed(
    client: Client, workers: list[Service], disturb: Callable[[Service], None]
) -> tuple[str, Service, Service]:
    """The text of an answer whose worker is disturbed in the middle; that worker and the other."""
    said: list[str] = []
    hit: list[Service] = []
    async for piece in pieces(client):
        said.append(piece)
        if len(said) == MIDDLE:
            hit = [
                worker
                for worker in workers
                if (await health(client.stack, worker))["requests"]["in_progress"]
            ]
            assert len(hit) == 1
            disturb(hit[0])
    (other,) = (worker for worker in workers if worker is not hit[0])
    return "".join(said), hit[0], other


def state_of(worker: Service) -> str:
    """What the kernel calls the process: "T" is stopped."""
    return Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(") ")[2][0]


async def answers_in_time(client: Client) -> bool:
    try:
        async with asyncio.timeout(2):
            await client.complete("hello", max_tokens=4)
    except TimeoutError:
        return False
    return True


async def test_a_frozen_worker_goes_on_where_it_was_and_says_nothing_twice(
    pair: tuple[Client, list[Service]],
    undisturbed: str,
    record_property: Callable[[str, Any], None],
) -> None:
    client, workers = pair
    stopped: asyncio.Future[Service] = asyncio.get_running_loop().create_future()

    def freeze(hit: Service) -> None:
        hit.process.signal(signal.SIGSTOP)
        stopped.set_result(hit)

    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(disturbed(client, workers, freeze))
        hit = await stopped

        async def is_stopped() -> bool:
            return state_of(hit) == "T"

        await eventually(is_stopped)
        record_property("injected", f"process state {state_of(hit)} after {MIDDLE} pieces")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await health(client.stack, hit)
        attempts = [await answers_in_time(client) for _ in range(4)]
        hit.process.signal(signal.SIGCONT)

    assert attempts.count(True) >= 2, "the other worker serves"
    assert answer.result()[0] == undisturbed


async def test_workers_that_are_known_answer_while_discovery_is_away(
    pair: tuple[Client, list[Service]],
    record_property: Callable[[str, Any], None],
) -> None:
    client, workers = pair
    stack = client.stack
    discovery = stack.run_dir / "discovery"
    discovery.rename(away := stack.run_dir / "away")

    for _ in range(6):
        await client.complete("hello", max_tokens=4)
    record_property("injected", f"{discovery.name} is there: {discovery.exists()}")
    assert not discovery.exists()
    away.rename(discovery)

    late = await stack.frontend(router_mode="round-robin")
    await stack.model_served(late, client.model)
    for _ in range(2):
        await Client(stack, late, client.model).complete("hello", max_tokens=4)
    assert [worker.process.exit_code for worker in workers] == [None, None]


async def test_a_client_of_a_killed_worker_reads_the_text_of_an_undisturbed_one(
    pair: tuple[Client, list[Service]],
    undisturbed: str,
    record_property: Callable[[str, Any], None],
) -> None:
    client, workers = pair

    text, dead, other = await disturbed(client, workers, lambda hit: hit.process.kill())

    assert await dead.process.wait() == -signal.SIGKILL
    record_property("injected", f"exit status {dead.process.exit_code} after {MIDDLE} pieces")
    assert text == undisturbed

    async def empty() -> bool:
        counts = (await health(client.stack, other))["requests"]
        return bool(counts == {"in_progress": 0, "running": 0, "waiting": 0})

    await eventually(empty)
