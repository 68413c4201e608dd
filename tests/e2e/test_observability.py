"""A real Prometheus watches the real stack: every panel has data, no conversation is seen."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from metric_rules import problems, series
from openai_client import Client, eventually
from prometheus_server import MISSING, PrometheusServer, is_installed
from shepherd_cli.observability.catalogue import REGISTRIES, series_of
from shepherd_cli.small_system import MODEL_NAME, Running, start
from shepherd_cli.stack import Service, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
needs_prometheus = pytest.mark.skipif(not is_installed(), reason=MISSING)
DEPLOY = Path(__file__).parents[2] / "deploy/observability"
CANARY = "xylophonequartz"
"""Said in a conversation, and nowhere else."""
WITHOUT_DATA = {
    "KV store": "needs --kv-connector",
    "In vLLM's form": "needs an endpoint in vLLM's form",
    "Deliveries": "needs a webhook or --notice-events",
    "Refused": "needs credentials, and somebody without",
    "Not allowed": "needs credentials, and somebody who lacks a scope",
    "Background work that failed": "needs work in the background, and a fault",
    "Prompts that were too long": "needs a conversation longer than the model's window",
    "Memory did not answer": "needs a memory that does not answer",
    "Frontend failed": "needs a frontend that fails",
    "Too many": "needs more requests than there are seats",
    "Callers turned away": "needs credentials, and somebody without",
    "Tool calls": "needs a model that calls a tool",
}
"""Panels that a healthy stack without further options leaves empty."""


@dataclass(frozen=True)
class Watched:
    stack: Stack
    running: Running
    client: Client

    @property
    def ours(self) -> dict[str, Service]:
        prefill, decode = self.running.workers
        memory, gateway = self.running.memory, self.running.gateway
        return {"prefill": prefill, "decode": decode, "memory": memory, "gateway": gateway}

    async def metrics(self, name: str) -> str:
        async with self.stack.http.get(self.ours[name].url + "/metrics") as answer:
            return await answer.text()

    async def talk(self, session: str, turns: int = 2) -> None:
        messages: list[dict[str, str]] = []
        for number in range(turns):
            words = f"Tell me about {CANARY} {session} {number}."
            messages.append({"role": "user", "content": words})
            answer = await self.client.chat(messages, session=session, max_tokens=12)
            content = answer["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": content})

    async def through_the_gateway(self) -> None:
        """A whole answer and a streamed one; its tools take up most of the window."""
        url = self.running.gateway.url + "/v1/chat/completions"
        body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": CANARY}]}
        for streamed in (False, True):
            asked = body | {"stream": streamed, "max_tokens": 8}
            headers = {"x-dynamo-session-id": f"gateway-{streamed}"}
            async with self.stack.http.post(url, json=asked, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                assert await answer.read()

    async def leave(self) -> None:
        """Go away in the middle of a long answer."""
        url = self.running.frontend.url + "/v1/chat/completions"
        body = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": f"{CANARY}, at length"}],
            "ignore_eos": True,
            "max_tokens": 150,
            "stream": True,
        }
        async with self.stack.http.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            await answer.content.readany()
            answer.close()

    async def recall(self) -> None:
        """Search, call a tool, and take note of the notices."""
        memory = self.running.memory.url
        await self.stack.get_json(memory + "/v1/search", query=CANARY)
        asked = {"arguments": {"query": CANARY}}
        async with self.stack.http.post(memory + "/v1/tools/search_memory", json=asked) as answer:
            assert answer.status == 200, await answer.text()
        for notice in (await self.stack.get_json(memory + "/v1/notices"))["notices"]:
            url = f"{memory}/v1/notices/{notice['notice_id']}/ack"
            async with self.stack.http.post(url) as answer:
                assert answer.status < 300, await answer.text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tiny_chat_model: Path, stack: Stack) -> AsyncIterator[Watched]:
    running = await start(stack, tiny_chat_model, num_kv_blocks=32)
    client = Client(stack, running.frontend, MODEL_NAME)
    yield Watched(stack, running, client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = PrometheusServer(tmp_path_factory.mktemp("prometheus"), watched.stack.http)
    host = {name: each.url.removeprefix("http://") for name, each in watched.ours.items()}
    targets = {
        "shepherd-worker": [host["prefill"], host["decode"]],
        "shepherd-memory": [host["memory"]],
        "shepherd-gateway": [host["gateway"]],
    }
    process = await server.start(targets, DEPLOY / "prometheus/alerts.yaml")
    yield server
    await process.stop(10)


def panels() -> list[tuple[str, str]]:
    """Every query of every dashboard by its panel's title, as Grafana would send it."""
    boards = [json.loads(path.read_text()) for path in sorted(DEPLOY.glob("dashboards/*.json"))]
    return [
        (
            panel["title"],
            target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*"),
        )
        for board in boards
        for panel in board["panels"]
        for target in panel["targets"]
    ]


@needs_prometheus
async def test_every_panel_of_every_dashboard_has_data(
    watched: Watched, prometheus: PrometheusServer
) -> None:
    async def scraped() -> bool:
        health = (await prometheus.health_of_targets()).values()
        return list(health) == ["up"] * 4

    await eventually(scraped)
    for number in range(8):
        await watched.talk(f"talk-{number}")
    await watched.through_the_gateway()
    await watched.leave()
    memory = watched.running.memory.url

    async def told() -> bool:
        return bool((await watched.stack.get_json(memory + "/v1/notices"))["notices"])

    await eventually(told)
    await watched.recall()
    await watched.through_the_gateway()  # a rate needs a series that was there before
    await watched.leave()

    async def empty() -> set[str]:
        return {title for title, expr in panels() if not await prometheus.values(expr)}

    async def as_expected() -> bool:
        return await empty() == WITHOUT_DATA.keys()

    try:
        await eventually(as_expected, timeout_s=15)
    except AssertionError:
        assert await empty() == WITHOUT_DATA.keys()
    assert await prometheus.values('ALERTS{alertstate="firing"}') == []


@pytest.mark.parametrize("name", ["prefill", "decode", "memory", "gateway"])
async def test_what_a_process_tells_keeps_to_the_rules_and_is_written_down(
    watched: Watched, name: str
) -> None:
    text = await watched.metrics(name)
    component = name if name in REGISTRIES else "worker"
    documented = {each.name for each in series_of(REGISTRIES[component]())}
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE shepherd_")}

    assert problems(text) == []
    assert told - documented == set()
    assert len(told) > 20
    if is_installed():
        argv = ["promtool", "check", "metrics"]
        done = await asyncio.to_thread(
            subprocess.run, argv, input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_more_sessions_make_no_more_series(watched: Watched) -> None:
    await watched.talk("before", turns=1)
    before = {name: series(await watched.metrics(name)) for name in watched.ours}
    await asyncio.gather(*(watched.talk(f"more-{number}", turns=1) for number in range(12)))
    after = {name: series(await watched.metrics(name)) for name in watched.ours}

    grown = {name: after[name] - before[name] for name in before}
    assert {name: more for name, more in grown.items() if more} == {}


async def test_what_was_said_is_in_no_log_and_no_metric(watched: Watched) -> None:
    await watched.talk("secretive")
    await watched.through_the_gateway()
    wrong = {"model": MODEL_NAME, "messages": [{"role": "user", "content": CANARY}], "n": CANARY}
    async with watched.stack.http.post(
        watched.running.frontend.url + "/v1/chat/completions", json=wrong
    ) as answer:
        assert answer.status >= 400

    logs = {path.name: path.read_text() for path in watched.stack.run_dir.glob("*.log")}
    metrics = {name: await watched.metrics(name) for name in watched.ours}
    assert {"prefill.log", "decode.log", "memory.log", "gateway.log"} <= logs.keys()
    for name, text in (logs | metrics).items():
        assert CANARY not in text, name
