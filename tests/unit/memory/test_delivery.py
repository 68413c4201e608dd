"""Notices on their way to sinks: in order, at least once, tried again, given up in the open."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from memory_doors import House, house
from shepherd_auth.errors import CredentialFileError
from shepherd_config import OptionError
from shepherd_events.events import Frame, Notice
from shepherd_events.subscriber import subscribe
from shepherd_memory.archive.records import StoredNotice
from shepherd_memory.config import load_config
from shepherd_memory.delivery import Delivery, SinkRefusedError, SinkUnavailableError
from shepherd_memory.notice_text import NoticeTemplate
from shepherd_memory.recalled import without_recalled
from shepherd_memory.webhook import Outwards, Webhook, read_webhooks, signature

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """A real HTTP server that answers as it is told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        """What the next requests get; 204 afterwards."""
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"location": "/elsewhere"})

    @property
    def notices(self) -> list[dict[str, Any]]:
        return [json.loads(body)["data"] for _, body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"  # type: ignore[attr-defined]
    yield made
    await runner.cleanup()


def webhooks_file(directory: Path, url: str, tenant: str = "local") -> str:
    path = directory / "webhooks.json"
    path.write_text(json.dumps([{"tenant": tenant, "url": url, "secret": SECRET}]))
    path.chmod(0o600)
    return str(path)


async def test_each_notice_is_posted_once_signed_and_in_order(
    tmp_path: Path, receiver: Any
) -> None:
    options = {
        "webhooks_file": webhooks_file(tmp_path, receiver.url),
        "webhook_allow_hosts": ("127.0.0.1",),
    }
    async with house(tmp_path / "data", **options) as door:
        door.talk("a")
        door.talk("b")
        door.evict()

        async def sessions() -> list[str]:
            return [notice["session"] for notice in receiver.notices]

        await door.settled(sessions, ["a", "b"])
        listed = (await door.get("/v1/notices"))["notices"]
        assert receiver.notices == listed
        assert {each["state"] for each in listed} == {"pending"}
    headers, body = receiver.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-id"] == listed[0]["notice_id"]

    async with house(tmp_path / "data", **options) as door:  # the position was kept
        door.talk("c")
        door.evict()
        await door.settled(sessions, ["a", "b", "c"])


def test_a_signature_is_that_of_the_specification() -> None:
    # printf 'id.1.{}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f -binary | base64
    expected = hmac.new(KEY, b"id.1.{}", hashlib.sha256).digest()
    assert signature(KEY, "id", 1, b"{}") == "v1," + base64.b64encode(expected).decode()


class ScriptedSink:
    """Does what it is told, and remembers what it took."""

    name = "scripted"

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.taken: list[str] = []

    async def deliver(self, row: StoredNotice) -> None:
        self.tries += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.taken.append(row.notice.session_id)


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data") as door:
        for session in ("a", "b"):
            door.talk(session)
        door.evict()
        yield door


async def test_a_sink_that_is_down_is_tried_again_and_nothing_overtakes(told: House) -> None:
    sink = ScriptedSink(*[SinkUnavailableError("down")] * 3)

    await Delivery("local", sink, told.means, retry_after_s=(0, 0, 0)).catch_up()

    assert sink.taken == ["a", "b"]
    assert sink.tries == 5
    metrics = told.means.metrics.render().decode()
    assert 'shepherd_memory_deliveries_total{outcome="retried",sink="scripted"} 3.0' in metrics
    assert 'shepherd_memory_deliveries_total{outcome="delivered",sink="scripted"} 2.0' in metrics


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([SinkRefusedError("status 410")], "status 410"),
        ([SinkUnavailableError("down")] * 3, "not taken in 3 tries: down"),
    ],
)
async def test_what_a_sink_never_takes_becomes_a_dead_letter_and_the_next_has_its_turn(
    told: House, errors: list[Exception], reason: str
) -> None:
    sink = ScriptedSink(*errors)
    delivery = Delivery("local", sink, told.means, retry_after_s=(0, 0))

    await delivery.catch_up()
    await delivery.catch_up()

    assert sink.taken == ["b"]
    listed = await told.call("GET", "/admin/v1/archives/local/dead-letters", admin=True)
    (letter,) = listed["dead_letters"]
    assert (letter["session"], letter["reason"]) == ("a", reason)
    path = f"/admin/v1/archives/local/dead-letters?name={letter['name'].replace(' ', '%20')}"
    again = path.replace("dead-letters?", "dead-letters/replay?")
    assert "in the outbox" in (await told.call("POST", again, 409, admin=True))["detail"]
    await told.call("DELETE", path, 204, admin=True)
    await told.call("DELETE", path, 404, admin=True)


async def test_a_process_that_dies_after_delivering_says_the_same_notice_again(
    told: House,
) -> None:
    class Dies(ScriptedSink):
        async def deliver(self, row: StoredNotice) -> None:
            await super().deliver(row)
            if self.tries == 1:
                raise asyncio.CancelledError  # as the end of the process does

    sink = Dies()
    with pytest.raises(asyncio.CancelledError):
        await Delivery("local", sink, told.means).catch_up()

    await Delivery("local", sink, told.means).catch_up()

    assert sink.taken == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, None),
        (204, None),
        (302, SinkRefusedError),
        (400, SinkRefusedError),
        (410, SinkRefusedError),
        (408, SinkUnavailableError),
        (429, SinkUnavailableError),
        (500, SinkUnavailableError),
        (503, SinkUnavailableError),
    ],
)
async def test_a_status_takes_refuses_or_asks_for_another_try(
    told: House, receiver: Any, status: int, error: type[Exception] | None
) -> None:
    from shepherd_memory.webhook import WebhookSink

    receiver.statuses = [status]
    rows = told.means.archives.of("local").notices(session=None, state=None, after=0, limit=1)
    async with Outwards(frozenset({"127.0.0.1"})) as outwards:
        sink = WebhookSink(Webhook("local", receiver.url, SECRET), outwards, lambda: 1.0)
        if error is None:
            await sink.deliver(rows[0])
        else:
            with pytest.raises(error, match=f"status {status}"):
                await sink.deliver(rows[0])
    assert len(receiver.got) == 1  # a redirect is not followed


class Names:
    """A resolver that says what it is told."""

    async def resolve(self, host: str) -> list[str]:
        return {"inside.example": ["127.0.0.1"], "mixed.example": ["8.8.8.8", "10.0.0.1"]}[host]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "169.254.169.254",
     "inside.example", "mixed.example", "2130706433"],
)  # fmt: skip
async def test_an_address_inside_is_never_connected_to(receiver: Any, host: str) -> None:
    port = receiver.url.rpartition(":")[2]
    async with Outwards(frozenset(), Names()) as outwards:
        with pytest.raises(SinkRefusedError, match="public internet"):
            await outwards.post(f"http://{host}:{port}", b"{}", {})

    assert receiver.got == []


async def test_an_address_that_the_operator_named_is_connected_to(receiver: Any) -> None:
    port = receiver.url.rpartition(":")[2]
    async with Outwards(frozenset({"inside.example"}), Names()) as outwards:
        assert await outwards.post(f"http://inside.example:{port}", b"{}", {}) == 204


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"url": "ftp://a.example"}, "http"),
        ({"url": "https://u:p@a.example"}, "without credentials"),
        ({"secret": "x"}, "whsec_"),
        ({"secret": "whsec_AAAA"}, "at least 24 bytes"),
        ({"secret": "whsec_!"}, "entry 0"),
        ({"tenant": None}, "is not a list of objects"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_said(
    tmp_path: Path, entry: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "webhooks.json"
    sound = {"tenant": "t", "url": "https://a.example/x", "secret": SECRET}
    path.write_text(json.dumps([sound | entry]))
    path.chmod(0o600)

    with pytest.raises(CredentialFileError, match=problem):
        read_webhooks(path)
    with pytest.raises(OptionError, match="--webhooks-file"):
        load_config(["--webhooks-file", str(path)], {})
    assert SECRET not in repr(Webhook("t", "https://a.example", SECRET))


async def test_notices_are_published_as_an_event_stream(tmp_path: Path) -> None:
    from shepherd_cli.stack import free_port

    port = free_port()
    async with house(tmp_path / "data", notice_events=f"tcp://127.0.0.1:{port}") as door:
        async with subscribe(f"tcp://127.0.0.1:{port}") as stream:
            door.talk("a")
            door.evict()
            async with asyncio.timeout(20):
                async for item in stream:
                    if isinstance(item, Frame) and isinstance(item.body, Notice):
                        heard = item.body
                        break
        (listed,) = (await door.get("/v1/notices"))["notices"]

    assert (heard.notice_id, heard.session_id) == (listed["notice_id"], "a")
    assert heard.text == listed["text"]


async def test_a_notices_words_are_the_operators_to_choose(tmp_path: Path) -> None:
    template = 'NOTICE: "{topic}" ({num_turns} turns) is archived.'
    async with house(tmp_path / "data", notice_template=template) as door:
        door.talk("a")
        door.evict()
        (listed,) = (await door.get("/v1/notices"))["notices"]

    mark = listed["notice_id"][:8]
    assert (
        listed["text"] == f'NOTICE: "Where do cats sleep?" (2 turns) is archived. [notice {mark}]'
    )
    assert without_recalled(f"{listed['text']}\nAnd now?") == "And now?"


@pytest.mark.parametrize(
    "text",
    ["", "NOTICE: nothing", "{topic}", "NOTICE: {topic}\n", "NOTICE: {topic} {x}",
     "NOTICE: {topic", "NOTICE: {topic.__class__}", "NOTICE: {topic}" + "x" * 500],
)  # fmt: skip
def test_a_template_that_says_no_topic_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NOTICE|topic|template|at most"):
        NoticeTemplate(text)
    with pytest.raises(OptionError, match="--notice-template"):
        load_config(["--notice-template", text], {})


@pytest.mark.parametrize("address", ["5569", "tcp://127.0.0.1", "tcp://0.0.0.0:5569", "udp://a:1"])
def test_notices_are_published_on_this_machine_alone(address: str) -> None:
    with pytest.raises(OptionError, match="--notice-events"):
        load_config(["--notice-events", address], {})
