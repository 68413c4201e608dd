"""`shepherd demo`: the main job once, on real parts, checked as it goes.

Three people talk to a model behind Dynamo's frontend, through a prefill and a
decode worker whose caches are too small for all of them.  What the caches
forget, memory must have: word for word.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shepherd_cli.chat import Conversation, Message, stream_chat
from shepherd_cli.stack import Stack
from shepherd_cli.up import MODEL_NAME, Running, start
from shepherd_cli.watch import StreamWatcher
from shepherd_tiny_chat import MODEL_DIR
from shepherd_tiny_chat.corpus.small_talk import KNOWLEDGE as QUESTIONS

SESSIONS = ("ada", "ben", "cleo")
TURNS_EACH = 4
NUM_KV_BLOCKS = 14
"""Room for about one and a half of the conversations, on each worker."""
REFERENCE_MODEL = MODEL_NAME + "-aggregated"
ARCHIVE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What was seen; every field must be true or above zero."""

    blocks_stored: int
    blocks_removed: int
    turns_archived: int
    notices: int
    search_hit: bool
    disaggregated_equals_aggregated: bool
    kv_blocks_moved: bool
    seconds: float

    def failures(self) -> list[str]:
        """The names of the fields that are zero or false."""
        return [field.name for field in fields(self) if not getattr(self, field.name)]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question as it was asked, with the answer that came."""

    session: str
    asked: tuple[Message, ...]
    answer: str


async def run_demo(build_dir: Path, console: Console) -> bool:
    """Run, print, write `demo.json`; whether everything was seen.

    Raises:
        ProcessFailedError: a part did not start.
    """
    started = time.monotonic()
    run_dir = build_dir / "demo"
    shutil.rmtree(run_dir, ignore_errors=True)
    async with Stack(run_dir) as stack:
        with console.status("starting Dynamo's frontend, two workers, a reference, memory"):
            running = await _start(stack, MODEL_DIR)
        report = await _Show(stack, running, console).run(started)
    path = build_dir / "demo.json"
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")
    _verdict(report, path, console)
    return not report.failures()


async def _start(stack: Stack, model: Path) -> Running:
    reference = stack.worker(
        *("aggregated", "--model", str(model), "--served-model-name", REFERENCE_MODEL),
        *("--component", "reference", "--num-kv-blocks", "256"),
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reference)
        running = tasks.create_task(start(stack, model, num_kv_blocks=NUM_KV_BLOCKS))
    await stack.model_served(running.result().frontend, REFERENCE_MODEL)
    return running.result()


class _Show:
    """The acts of the demo, in order."""

    def __init__(self, stack: Stack, running: Running, console: Console) -> None:
        self._stack = stack
        self._running = running
        self._console = console
        self._exchanges: list[Exchange] = []

    async def run(self, started: float) -> DemoReport:
        """Play every act and report."""
        watcher, close = await self._watch()
        watching = asyncio.create_task(watcher.run())
        try:
            await self._talk(watcher)
            equal = await self._compare()
            archived, notices = await self._remembered()
            hit = await self._recall(archived)
            moved = await self._kv_moved()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            close()
        totals = watcher.totals()
        return DemoReport(
            blocks_stored=totals["stored"],
            blocks_removed=totals["removed"],
            turns_archived=len(archived),
            notices=len(notices),
            search_hit=hit,
            disaggregated_equals_aggregated=equal,
            kv_blocks_moved=moved,
            seconds=round(time.monotonic() - started, 1),
        )

    async def _watch(self) -> tuple[StreamWatcher, Any]:
        os.environ.update(self._stack.env | {"DYN_LOG": "off"})
        from shepherd_events.dynamo_directory import DynamoDirectory  # noqa: PLC0415  needs the env

        directory = DynamoDirectory(
            namespace=self._stack.namespace,
            components=("backend", "prefill"),
            discovery_backend="file",
        )
        await directory.connect()
        return StreamWatcher(directory), directory.close

    async def _talk(self, watcher: StreamWatcher) -> None:
        self._console.rule("[bold]three conversations, caches with room for one and a half")
        for number, session in enumerate(SESSIONS):
            chat = Conversation(
                self._stack.http, self._running.frontend.url, MODEL_NAME, session_id=session
            )
            for turn in range(TURNS_EACH):
                question, _ = QUESTIONS[(number * TURNS_EACH + turn) % len(QUESTIONS)]
                await self._ask(chat, question)
                self._console.print(_cache_line(watcher))

    async def _ask(self, chat: Conversation, question: str) -> None:
        asked = (*chat.messages, {"role": "user", "content": question})
        self._console.print(Text(f"{chat.session_id:>6}  {question}", style="bold cyan"))
        self._console.print(Text("        "), end="")
        answer = ""
        async for piece in chat.say(question):
            answer += piece
            self._console.print(Text(piece), end="")
        self._console.print()
        self._exchanges.append(Exchange(chat.session_id, asked, answer))

    async def _compare(self) -> bool:
        """Ask an aggregated worker the same; greedy answers must be equal."""
        reference = Conversation(self._stack.http, self._running.frontend.url, REFERENCE_MODEL)
        different = 0
        for exchange in self._exchanges:
            pieces = [p async for p in stream_chat(reference, list(exchange.asked))]
            different += "".join(pieces) != exchange.answer
        self._console.print(
            f"\n{len(self._exchanges) - different} of {len(self._exchanges)} answers through "
            "prefill and decode equal those of an aggregated worker"
        )
        return different == 0

    async def _remembered(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What memory archived, and whom it told."""
        self._console.rule("[bold]what the caches forgot, memory has")
        memory = self._running.memory.url
        deadline = time.monotonic() + ARCHIVE_TIMEOUT_S
        archived: list[dict[str, Any]] = []
        while not archived and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            archived = [turn for s in SESSIONS for turn in await self._archived(s)]
        for turn in archived:
            self._console.print(
                Text(f"{turn['session']:>6}  turn {turn['ordinal']} archived  ", style="yellow")
                + Text(_words(turn, "user"), style="dim")
            )
        notices = [
            notice
            for session in SESSIONS
            for notice in (await self._stack.get_json(f"{memory}/v1/notices", session=session))[
                "notices"
            ]
        ]
        for notice in notices:
            told = Text(f"{notice['session']:>6}  {notice['text']}", style="magenta")
            self._console.print(told, soft_wrap=True)
        return archived, notices

    async def _archived(self, session: str) -> list[dict[str, Any]]:
        url = f"{self._running.memory.url}/v1/sessions/{session}/turns"
        try:
            turns = (await self._stack.get_json(url))["turns"]
        except Exception as error:  # noqa: BLE001  the session may not be known yet
            self._console.log(f"{session}: {error}")
            return []
        return [turn | {"session": session} for turn in turns if turn["state"] == "archived"]

    async def _recall(self, archived: list[dict[str, Any]]) -> bool:
        """Search for an evicted question; the exchange must come back word for word."""
        if not archived:
            return False
        wanted = _words(archived[0], "user")
        said = next(e for e in self._exchanges if e.asked[-1]["content"] == wanted)
        found = await self._stack.get_json(
            f"{self._running.memory.url}/v1/search", query=wanted, k="3"
        )
        self._console.rule(f'[bold]search_memory("{wanted}")')
        for rank, hit in enumerate(found["hits"], start=1):
            said_in = f"{rank:>6}  {hit['session']}, turn {hit['ordinal']}"
            self._console.print(Text(said_in, style="dim"))
            for message in hit["messages"]:
                words = Text(f"        {message['role']}: {message['content']}")
                self._console.print(words, soft_wrap=True)
        return any(
            _words(hit, "user") == wanted and _words(hit, "assistant") == said.answer
            for hit in found["hits"]
        )

    async def _kv_moved(self) -> bool:
        """Whether the decode worker fetched KV instead of computing it."""
        decode = self._running.workers[1]
        async with self._stack.http.get(decode.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        name = 'shepherd_worker_prompt_tokens_total{source="remote"}'
        return any(line.startswith(name) and float(line.split()[-1]) > 0 for line in lines)


def _words(turn: dict[str, Any], role: str) -> str:
    return next((m["content"] for m in turn["messages"] if m["role"] == role), "")


def _cache_line(watcher: StreamWatcher) -> Text:
    line = Text("        ")
    for view in sorted(watcher.views.values(), key=lambda view: view.role):
        line += Text(f"{view.role} ", style="dim")
        line += Text("█" * view.resident, style="green")
        line += Text("░" * max(0, NUM_KV_BLOCKS - view.resident), style="dim")
        line += Text(f" +{view.stored}", style="green") + Text(f" -{view.removed}   ", style="red")
    return line


def _verdict(report: DemoReport, path: Path, console: Console) -> None:
    table = Table(show_header=False, box=None)
    for name, value in asdict(report).items():
        shown = Text(str(value), style="green" if value else "bold red")
        table.add_row(Text(name.replace("_", " ")), shown)
    console.rule("[bold]report")
    console.print(table)
    console.print(f"written to {path}", style="dim")
    if report.failures():
        console.print(f"FAILED: {', '.join(report.failures())}", style="bold red")
