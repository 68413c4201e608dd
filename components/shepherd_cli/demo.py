"""`shepherd demo`: the main job once, on real parts, checked as it goes.

The story is `story.py`: what Ada said is evicted, archived and told as a NOTICE;
when she asks for it, the model looks it up.  She talks through the gateway, the
others straight to Dynamo's frontend; prefill and decode are workers of their own.
What is seen of it is `stage.py`; `DemoReport` says whether all of it happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shepherd_cli import story
from shepherd_cli.chat import Conversation, Message, stream_chat
from shepherd_cli.small_system import MODEL_NAME, Running, start
from shepherd_cli.stack import Stack
from shepherd_cli.stage import CacheShown, Stage, stage_for
from shepherd_cli.watch import StreamWatcher
from shepherd_tiny_chat import MODEL_DIR

NUM_KV_BLOCKS = 60
"""On each worker: room for one recall, not for all that is said."""
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
    told_by_notice: bool
    """A NOTICE stood in the request with Ada's question."""
    recalled_by_search: bool
    """The model called `search_memory` for it."""
    answered_right: bool
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


async def run_demo(build_dir: Path, *, as_json: bool = False) -> bool:
    """Run, show, write `demo.json`; whether everything was seen.

    With `as_json` the report goes to stdout and lines for people to stderr.

    Raises:
        ProcessFailedError: a part did not start.
    """
    started = time.monotonic()
    run_dir = build_dir / "demo"
    shutil.rmtree(run_dir, ignore_errors=True)
    console = Console(stderr=as_json)
    async with Stack(run_dir) as stack:
        with console.status("starting Dynamo's frontend, workers, memory and gateway"):
            running = await _start(stack, MODEL_DIR)
        with stage_for(console) as stage:
            report = await _Show(stack, running, stage).run(started)
    path = build_dir / "demo.json"
    document = json.dumps(asdict(report), indent=2) + "\n"
    path.write_text(document)
    if as_json:
        sys.stdout.write(document)
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

    def __init__(self, stack: Stack, running: Running, stage: Stage) -> None:
        self._stack = stack
        self._running = running
        self._stage = stage
        self._exchanges: list[Exchange] = []
        """Of those who talk to the frontend itself."""

    async def run(self, started: float) -> DemoReport:
        """Play every act and report."""
        watcher, close = await self._watch()
        watching = asyncio.create_task(watcher.run())
        ada = self._conversation(story.ADA, self._running.gateway.url)
        try:
            await self._tell(ada, watcher)
            await self._crowd_out(watcher)
            archived, notices = await self._remembered()
            hit = await self._found(archived)
            answer = await self._ask_again(ada, watcher)
            equal = await self._compare()
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
            told_by_notice=ada.num_notices > 0,
            recalled_by_search=any("search_memory" in each for each in ada.recalls),
            answered_right=story.is_right(answer),
            seconds=round(time.monotonic() - started, 1),
        )

    async def _watch(self) -> tuple[StreamWatcher, Callable[[], None]]:
        os.environ.update(self._stack.env | {"DYN_LOG": "off"})
        from shepherd_events.dynamo_directory import DynamoDirectory  # noqa: PLC0415  needs the env

        directory = DynamoDirectory(
            namespace=self._stack.namespace,
            components=("backend", "prefill"),
            discovery_backend="file",
        )
        await directory.connect()
        return StreamWatcher(directory), directory.close

    def _conversation(self, session: str, url: str) -> Conversation:
        return Conversation(self._stack.http, url, MODEL_NAME, session_id=session)

    async def _tell(self, ada: Conversation, watcher: StreamWatcher) -> None:
        self._stage.act("Ada tells something about herself")
        for said in (*story.FACTS, story.GOODBYE):
            await self._say(ada, said, watcher)

    async def _crowd_out(self, watcher: StreamWatcher) -> None:
        self._stage.act("Others talk; the caches have no room for all of it")
        for guest in story.GUESTS:
            chat = self._conversation(guest, self._running.frontend.url)
            for question in story.questions_of(guest):
                asked = (*chat.messages, {"role": "user", "content": question})
                answer = await self._say(chat, question, watcher)
                self._exchanges.append(Exchange(guest, asked, answer))

    async def _ask_again(self, ada: Conversation, watcher: StreamWatcher) -> str:
        """Ask for what is in no cache any more; the answer."""
        self._stage.act("Ada is back, and asks")
        answer = await self._say(ada, story.QUESTION, watcher)
        for recall in ada.recalls:
            self._stage.remembers(f"the model called {recall}", "cyan")
        return answer

    async def _say(self, chat: Conversation, text: str, watcher: StreamWatcher) -> str:
        self._stage.asks(chat.session_id, text)
        answer = ""
        async for piece in chat.say(text):
            answer += piece
            self._stage.answers(answer, whole=False)
        self._stage.answers(answer, whole=True)
        self._stage.caches(
            [
                CacheShown(view.role, view.stored, view.removed, NUM_KV_BLOCKS)
                for view in sorted(watcher.views.values(), key=lambda view: view.role)
            ]
        )
        return answer

    async def _compare(self) -> bool:
        """Ask an aggregated worker the same; greedy answers must be equal."""
        self._stage.act("An aggregated worker is asked the same")
        compared = await asyncio.gather(*map(self._num_equal, story.GUESTS))
        total = len(self._exchanges)
        self._stage.remembers(
            f"{sum(compared)} of {total} answers through prefill and decode equal those of an "
            "aggregated worker"
        )
        return sum(compared) == total

    async def _num_equal(self, guest: str) -> int:
        reference = Conversation(self._stack.http, self._running.frontend.url, REFERENCE_MODEL)
        num_equal = 0
        for exchange in self._exchanges:
            if exchange.session == guest:
                pieces = [p async for p in stream_chat(reference, list(exchange.asked))]
                num_equal += "".join(pieces) == exchange.answer
        return num_equal

    async def _remembered(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What memory archived of Ada's turns, and what it tells her, once that is all of them."""
        self._stage.act("What the caches forgot, memory has")
        deadline = time.monotonic() + ARCHIVE_TIMEOUT_S
        archived: list[dict[str, Any]] = []
        while len(archived) < len(story.FACTS) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            archived = await self._archived(story.ADA)
        for turn in archived:
            words = f"archived: {story.ADA}, turn {turn['ordinal']}: {_words(turn, 'user')}"
            self._stage.remembers(words, "yellow")
        notices: list[dict[str, Any]] = []
        while not _tell_of(notices, archived) and time.monotonic() < deadline:
            url = f"{self._running.memory.url}/v1/notices"
            notices = (await self._stack.get_json(url, session=story.ADA))["notices"]
            await asyncio.sleep(0.1)
        for notice in notices:
            self._stage.remembers(notice["text"], "magenta")
        return archived, notices

    async def _archived(self, session: str) -> list[dict[str, Any]]:
        url = f"{self._running.memory.url}/v1/sessions/{session}/turns"
        async with self._stack.http.get(url) as response:
            if response.status == 404:  # not heard of yet
                return []
            response.raise_for_status()
            turns = (await response.json())["turns"]
        return [turn for turn in turns if turn["state"] == "archived"]

    async def _found(self, archived: list[dict[str, Any]]) -> bool:
        """Search as anybody may; the exchange must come back word for word."""
        if not archived:
            return False
        turn = archived[0]
        wanted = _words(turn, "user")
        found = await self._stack.get_json(
            f"{self._running.memory.url}/v1/search", query=wanted, k="3"
        )
        self._stage.remembers(f'search "{wanted}": {len(found["hits"])} hits')
        return any(
            _words(hit, "user") == wanted and _words(hit, "assistant") == _words(turn, "assistant")
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


def _tell_of(notices: list[dict[str, Any]], archived: list[dict[str, Any]]) -> bool:
    """Whether every archived turn is told of."""
    told = {ordinal for notice in notices for ordinal in notice["turns"]}
    return bool(notices) and {turn["ordinal"] for turn in archived} <= told


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
