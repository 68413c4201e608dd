"""The whole service over a real HTTP connection: publish, archive, tell, recall."""

from __future__ import annotations

import asyncio
import json
import re
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from curve_keys import CurveKeys
from publishing_worker import PublishingWorker
from shepherd_events.discovery import StreamLeft
from shepherd_events.events import (
    BlocksRemoved,
    StreamId,
)
from shepherd_events.privacy import Encrypted, Hashed, IdsOnly, Veil
from shepherd_events.tenant_keys import Sealer, TenantKeys
from shepherd_events.transcript import TokenizerAssets
from shepherd_events.transports import connect as connect_by_address
from shepherd_events.transports.memory import MemoryBroker
from shepherd_events.transports.protocol import PublisherTransport
from shepherd_events.transports.zmq import ZmqPublisherTransport
from shepherd_memory.config import MemoryConfig
from shepherd_memory.fake import FakeDirectory, FakeWorker, SpelledTranscript, spell
from shepherd_memory.service import serve

SYSTEM = ("system", "You are kind and brief.")
T1 = [("user", "Where do cats sleep?"), ("assistant", "Everywhere at all.")]
T2 = [("user", "And what do dogs eat?"), ("assistant", "Whatever the cat leaves.")]
NOTICE = (
    'NOTICE: Conversation regarding "Where do cats sleep?" has been moved to long-term '
    "memory. Use search_memory to recall it."
)


class Stack:
    """A running service, its directory and a client."""

    def __init__(
        self,
        directory: FakeDirectory,
        client: aiohttp.ClientSession,
        serving: asyncio.Future[None],
    ) -> None:
        self.directory = directory
        self.client = client
        self._serving = serving

    async def stop(self) -> None:
        """End the service, as a signal does."""
        self._serving.cancel()
        await asyncio.wait([self._serving], timeout=10)
        assert self._serving.cancelled()

    async def get(self, path: str, status: int = 200, **query: str) -> Any:
        async with self.client.get(path, params=query) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None)


async def eventually(question: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    deadline = time.monotonic() + 10
    while (answer := await question()) != wanted:
        assert time.monotonic() < deadline, f"{answer} is still not {wanted}"
        await asyncio.sleep(0.02)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def workers(broker: MemoryBroker) -> Iterable[Callable[..., PublishingWorker]]:
    made: list[PublishingWorker] = []

    def make(
        worker_id: str = "w1",
        transport: PublisherTransport | None = None,
        veil: Veil | None = None,
    ) -> PublishingWorker:
        made.append(PublishingWorker(transport or broker.publisher(worker_id), worker_id, veil))
        return made[-1]

    yield make
    for worker in made:
        worker.publisher.close("test is over")


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path, broker: MemoryBroker) -> Start:
    """Runs the service over one data directory; leaving the block cancels it."""

    @asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Stack]:
        config = MemoryConfig(
            data_dir=str(tmp_path),
            http_port=0,
            admin_port=None,
            settle_s=options.pop("settle_s", 60),
            archive_grace_s=0.02,
            **options.pop("config", {}),
        )
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        directory = options.pop("directory", None) or FakeDirectory()
        serving = asyncio.ensure_future(
            serve(
                config,
                directory,
                make_transcript=lambda _: SpelledTranscript(),
                connect=options.pop("connect", broker.connect),
                on_ready=ready.set_result,
            )
        )
        try:
            await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            async with aiohttp.ClientSession(base_url=ready.result()) as client:
                yield Stack(directory, client, serving)
        finally:
            serving.cancel()
            await asyncio.wait([serving], timeout=10)
            assert serving.cancelled()

    return running


async def turn_states(stack: Stack, session: str = "s") -> list[str]:
    async with stack.client.get(f"/v1/sessions/{session}/turns") as answer:
        if answer.status == 404:
            return []
        return [turn["state"] for turn in (await answer.json())["turns"]]


def blocks_of_first_turn(worker: FakeWorker) -> array[int]:
    system = len(spell([SYSTEM]))
    return worker.blocks_of([SYSTEM, *T1, *T2])[system // 4 : len(spell([SYSTEM, *T1])) // 4]


async def test_from_an_evicted_block_to_the_recalled_words(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])

        waiting = asyncio.ensure_future(stack.get("/v1/notices/wait", session="s", timeout="30"))
        worker.evict(blocks_of_first_turn(worker))

        (notice,) = (await waiting)["notices"]
        assert notice["text"] == NOTICE
        assert (notice["state"], notice["turns"]) == ("pending", [1])
        (hit,) = (await stack.get("/v1/search", query="where did the cat sleep"))["hits"]
        assert hit["messages"] == [
            {"role": "user", "content": "Where do cats sleep?"},
            {"role": "assistant", "content": "Everywhere at all."},
        ]
        assert hit["archive_id"] == notice["archive_ids"][0]
        assert await turn_states(stack) == ["archived", "live"]

        again = await stack.get("/v1/notices/wait", timeout="0")
        assert again["notices"] == [notice]
        async with stack.client.post(f"/v1/notices/{notice['notice_id']}/ack") as answer:
            assert answer.status == 204
        assert (await stack.get("/v1/notices/wait", timeout="0"))["notices"] == []
        assert (await stack.get("/v1/notices", state="acknowledged"))["notices"] == [
            {**notice, "state": "acknowledged"}
        ]


async def test_the_same_over_sockets(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers(transport=ZmqPublisherTransport())
    async with start(connect=connect_by_address) as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])

        worker.evict(blocks_of_first_turn(worker))

        (notice,) = (await stack.get("/v1/notices/wait", timeout="30"))["notices"]
        assert notice["text"] == NOTICE


async def test_the_same_with_curve_keys_and_tokens_that_only_the_tenants_key_opens(
    start: Start, workers: Callable[..., PublishingWorker], tmp_path: Path
) -> None:
    (tmp_path / "curve").mkdir()
    curve = CurveKeys(tmp_path / "curve")
    tenants = tmp_path / "tenants.keys"
    tenants.write_text(f"* {bytes(32).hex()}\n")
    tenants.chmod(0o600)
    worker = workers(
        transport=ZmqPublisherTransport(curve=curve.publisher),
        veil=Encrypted(Sealer(TenantKeys.load(str(tenants)))),
    )
    config = {
        "kv_events_curve_file": curve.reader().key_file,
        "kv_events_curve_server": curve.reader().peers,
        "kv_events_keys_file": str(tenants),
    }
    async with start(connect=None, config=config) as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])

        worker.evict(blocks_of_first_turn(worker))

        (notice,) = (await stack.get("/v1/notices/wait", timeout="30"))["notices"]
        assert notice["text"] == NOTICE


@pytest.mark.parametrize(
    ("veil", "why"),
    [
        (IdsOnly(), "w1/0 is ids-only.*keeps the tokens to itself"),
        (Hashed(bytes(16)), "w1/0 is hashed.*keeps the tokens to itself"),
        (Encrypted(Sealer(TenantKeys({"*": [bytes(32)]}))), "give --kv-events-keys-file"),
    ],
)
async def test_what_cannot_be_read_is_counted_and_told_once(
    start: Start,
    workers: Callable[..., PublishingWorker],
    veil: Veil,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = workers(veil=veil)
    async with start() as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        worker.complete([SYSTEM, *T1, *T2])

        await metric(stack, "shepherd_memory_turns_withheld_total", 2)
        assert await turn_states(stack) == []
    (told,) = (each.getMessage() for each in caplog.records if "can be archived" in each.message)
    assert re.search(why, told)


async def test_an_index_that_differs_from_its_publisher_is_found_and_healed(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])
        gone = blocks_of_first_turn(worker)
        worker.publisher._residents.apply(BlocksRemoved(gone))

        await eventually(lambda: turn_states(stack), ["archived", "live"])
        await metric(stack, 'shepherd_stream_resets_total{reason="diverged"}', 1)


async def metric(stack: Stack, name: str, wanted: float) -> None:
    async def value() -> float | None:
        async with stack.client.get("/metrics") as answer:
            text = await answer.text()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    await eventually(value, wanted)


async def test_the_event_stream_tells_what_is_pending_and_what_comes(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        for session in ("a", "b"):
            worker.complete([SYSTEM, *T1], session=session)
            worker.complete([SYSTEM, *T1, *T2], session=session)
        await eventually(lambda: turn_states(stack, "b"), ["live", "live"])
        worker.evict(blocks_of_first_turn(worker))
        await eventually(lambda: turn_states(stack, "b"), ["archived", "live"])

        first, second = await events(stack, 2)
        assert sorted((first["session"], second["session"])) == ["a", "b"]
        assert await events(stack, 1, **{"last-event-id": str(first["position"])}) == [second]

        worker.complete([SYSTEM, *T1, *T2], session="c")
        await eventually(lambda: turn_states(stack, "c"), ["live", "live"])
        later = asyncio.ensure_future(
            events(stack, 1, **{"last-event-id": str(second["position"])})
        )
        worker.evict(blocks_of_first_turn(worker))
        (third,) = await later
        assert third["session"] == "c"


async def events(stack: Stack, count: int, **headers: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with stack.client.get("/v1/notices/stream", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


async def test_a_restart_goes_on_where_the_last_run_stopped(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])

    worker.evict(blocks_of_first_turn(worker))

    async with start() as stack:
        stack.directory.say(worker.joined)
        await eventually(lambda: turn_states(stack), ["archived", "live"])
        applied = (await stack.get("/health"))["streams"][0]["applied"]
        assert applied["sequence"] == worker.publisher.head_seq
    async with start() as stack:
        assert len((await stack.get("/v1/notices"))["notices"]) == 1


async def test_a_stream_that_does_not_come_back_is_ended_after_the_settle_time(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker, other = workers(), workers("w2")
    async with start() as stack:
        stack.directory.say(worker.joined)
        stack.directory.say(other.joined)
        worker.complete([SYSTEM, *T1, *T2])
        other.complete([SYSTEM, *T1, *T2], session="o", started_unix_ns=99)
        await eventually(lambda: turn_states(stack), ["live", "live"])
        await eventually(lambda: turn_states(stack, "o"), ["live", "live"])

    async with start() as stack:
        assert await turn_states(stack) == ["live", "live"]

    worker.evict(blocks_of_first_turn(worker))
    async with start(settle_s=0.5) as stack:
        stack.directory.say(worker.joined)
        await eventually(lambda: turn_states(stack), ["archived", "live"])
        assert await turn_states(stack, "o") == ["archived", "live"]


async def test_a_stream_that_leaves_takes_its_blocks_with_it(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])

        stack.directory.say(StreamLeft(worker.stream))
        await eventually(lambda: turn_states(stack), ["archived", "live"])

        assert (await stack.get("/health"))["streams"] == []
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T2], session="t")
        await eventually(lambda: turn_states(stack, "t"), ["live"])
        assert await turn_states(stack) == ["archived", "live"]


async def test_a_worker_that_starts_again_is_a_new_epoch(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1, *T2])
        await eventually(lambda: turn_states(stack), ["live", "live"])

        worker.publisher.close("crash")
        successor = workers()
        stack.directory.say(successor.joined)

        await eventually(lambda: turn_states(stack), ["archived", "live"])


async def test_health_says_where_each_stream_stands(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        assert await stack.get("/health") == {
            "status": "ok",
            "follows_streams": True,
            "backlog": 0,
            "store": {"state": "ok", "reason": None},
            "streams": [],
        }
        stack.directory.say(worker.joined)
        worker.complete([SYSTEM, *T1])

        async def state() -> list[tuple[str, bool]]:
            async with stack.client.get("/health") as answer:
                streams = (await answer.json())["streams"]
            return [
                (each["state"], each["applied"] == each["received"] is not None) for each in streams
            ]

        await eventually(state, [("live", True)])
        (stream,) = (await stack.get("/health"))["streams"]
        assert stream["stream"] == "w1/0"
        assert stream["epoch"] == worker.publisher.epoch
        assert 0 <= stream["lag_seconds"] < 10
        assert await stack.get("/live") == {"status": "ok"}


class SilentDirectory(FakeDirectory):
    """Shows streams but never hands out a tokenizer in time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def tokenizer_assets(self, stream: StreamId) -> TokenizerAssets:
        self.asked += 1
        if self.asked == 1:
            raise ConnectionError(f"{stream} does not answer")
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits that long")


async def test_a_worker_that_does_not_answer_is_asked_again_and_makes_us_unhealthy(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    directory = SilentDirectory()
    async with start(directory=directory) as stack:
        directory.say(workers().joined)

        async def asked() -> bool:
            return directory.asked == 2

        await eventually(asked, True)
        document = await stack.get("/health", 503)
        assert document["status"] == "unavailable"
        assert document["streams"][0]["state"] == "connecting"


async def test_waiting_requests_are_answered_when_the_service_stops(start: Start) -> None:
    async with start() as stack, stack.client.get("/v1/notices/stream") as stream:
        waiting = asyncio.ensure_future(stack.get("/v1/notices/wait", timeout="60"))
        assert await stream.content.readline() == b": notices\n"
        await stack.get("/live")
        began = time.monotonic()

        await stack.stop()

        assert time.monotonic() - began < 5
        assert (await waiting)["notices"] == []
        assert b"still here" in await stream.content.read()


async def test_metrics_name_what_happened_and_grow_with_no_session(
    start: Start, workers: Callable[..., PublishingWorker]
) -> None:
    worker = workers()
    async with start() as stack:
        stack.directory.say(worker.joined)
        for number in range(30):
            worker.complete([("user", f"hi {number}")], session=f"session-{number}")
        await eventually(lambda: turn_states(stack, "session-29"), ["live"])

        async with stack.client.get("/metrics") as answer:
            text = await answer.text()

    assert "shepherd_memory_turns_recorded_total 30.0" in text
    assert 'shepherd_stream_events_received_total{type="TurnCompleted"} 30.0' in text
    assert "session-" not in text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert names == helped
    assert all(name.startswith(("shepherd_", "process_")) for name in names)
