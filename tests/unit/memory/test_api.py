"""The HTTP door over a real connection: what it gives, and what it refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from archive_samples import a_notice
from json_log import json_log
from memory_doors import House, house
from shepherd_memory.archive.fake import FakeArchives
from shepherd_memory.errors import ModelUnavailableError, StoreUnavailableError
from shepherd_memory.search import Searcher


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened:
        yield opened


async def test_sessions_and_their_turns_are_paged(door: House) -> None:
    for session in ("b", "a", "c"):
        door.talk(session)
    door.evict()

    first = await door.get("/v1/sessions?limit=2")
    assert [each["session"] for each in first["sessions"]] == ["a", "b"]
    assert first["next"] == "b"
    rest = await door.get(f"/v1/sessions?limit=2&after={first['next']}")
    assert [each["session"] for each in rest["sessions"]] == ["c"]
    assert rest["next"] is None

    turns = await door.get("/v1/sessions/a/turns?limit=2")
    assert [(each["ordinal"], each["state"]) for each in turns["turns"]] == [
        (1, "archived"),
        (2, "archived"),
    ]
    assert turns["turns"][0]["archived_unix_ns"] == 7
    last = await door.get(f"/v1/sessions/a/turns?limit=2&after={turns['next']}")
    assert [(each["ordinal"], each["state"]) for each in last["turns"]] == [(3, "live")]
    assert last["next"] is None

    assert await door.get("/v1/sessions/a") == {
        "session": "a",
        "live_turns": 1,
        "archived_turns": 2,
        "last_unix_ns": turns["turns"][0]["started_unix_ns"],
    }


async def test_any_visible_id_is_a_name_and_never_a_path(door: House) -> None:
    for session in ("a/b", "../x", "%", "a?b#c", "';DROP", "turns"):
        door.talk(session)
        quoted = "".join(f"%{byte:02X}" for byte in session.encode())

        assert (await door.get(f"/v1/sessions/{quoted}"))["session"] == session
        assert len((await door.get(f"/v1/sessions/{quoted}/turns"))["turns"]) == 3


async def test_notices_are_listed_by_session_and_state(door: House) -> None:
    door.talk("a")
    door.talk("b")
    door.evict()

    (first, second) = (await door.get("/v1/notices?limit=2"))["notices"]
    assert [first["session"], second["session"]] == ["a", "b"]
    assert (await door.get("/v1/notices?session=b"))["notices"] == [second]
    assert (await door.get(f"/v1/notices?after={first['position']}"))["notices"] == [second]
    assert (await door.get("/v1/notices?state=acknowledged"))["notices"] == []

    for _ in range(2):
        async with door.client.post(f"/v1/notices/{first['notice_id']}/ack") as answer:
            assert answer.status == 204
    assert (await door.get("/v1/notices?state=pending"))["notices"] == [second]


async def test_it_is_timed_once_how_long_a_session_was_not_told(tmp_path: Path) -> None:
    async with house(tmp_path, now_unix_ns=1_500_000_005) as door:
        with door.means.archives.of("local").writing() as writer:
            writer.add_notice(a_notice("n1"))  # of 5 ns past 1970
        for _ in range(2):
            async with door.client.post("/v1/notices/n1/ack") as answer:
                assert answer.status == 204
        found = door.means.metrics.registry.get_sample_value

        name = "shepherd_memory_notify_duration_seconds"
        assert (found(f"{name}_count"), found(f"{name}_sum")) == (1, 1.5)
        acknowledged = {"outcome": "acknowledged"}
        assert found("shepherd_memory_notifications_total", acknowledged) == 1


async def test_a_long_poll_answers_as_soon_as_there_is_news_of_its_session(door: House) -> None:
    door.talk("b")
    waiting = asyncio.ensure_future(door.get("/v1/notices/wait?session=b&timeout=30"))
    await asyncio.sleep(0)
    door.evict()

    answer = await asyncio.wait_for(waiting, 10)

    assert [each["session"] for each in answer["notices"]] == ["b"]
    behind = await door.get(f"/v1/notices/wait?timeout=0&after={answer['next']}")
    assert behind == {"notices": [], "next": answer["next"]}


async def test_a_long_poll_without_news_ends_when_its_time_is_up(door: House) -> None:
    began = time.monotonic()

    assert (await door.get("/v1/notices/wait?timeout=1"))["notices"] == []
    assert 0.9 < time.monotonic() - began < 8


async def test_another_tenants_words_cannot_be_had(door: House) -> None:
    door.talk("secret", tenant="acme")
    door.evict(tenant="acme")

    assert (await door.get("/v1/sessions"))["sessions"] == []
    assert (await door.get("/v1/notices"))["notices"] == []
    assert (await door.get("/v1/search?query=cats"))["hits"] == []
    await door.get("/v1/sessions/secret", 404)
    await door.get("/v1/sessions/secret/turns", 404)
    problem = await door.get("/v1/search?query=cats&tenant=acme", 422)
    assert (problem["field"], problem["value"]) == ("query", "tenant")


async def test_a_search_returns_turns_word_for_word_with_their_scores(door: House) -> None:
    door.talk("a")
    door.talk("b")
    door.evict()

    hits = (await door.get("/v1/search?query=sleeping+cat&k=5"))["hits"]
    assert [(hit["session"], hit["ordinal"]) for hit in hits[:2]] == [("b", 1), ("a", 1)]
    assert hits[0]["score"] == hits[1]["score"] > 0
    assert hits[0]["messages"] == [
        {"role": "user", "content": "Where do cats sleep?"},
        {"role": "assistant", "content": "Everywhere."},
    ]
    assert len((await door.get("/v1/search?query=cat&k=1"))["hits"]) == 1
    narrowed = (await door.get("/v1/search?query=cat&session=a"))["hits"]
    assert {hit["session"] for hit in narrowed} == {"a"}


async def test_a_search_says_how_well_each_turn_fits_where_and_what_stands_beside_it(
    door: House,
) -> None:
    door.talk("a")
    door.evict()

    asked = "/v1/search?query=sleeping+dogs"
    (hit, _) = (await door.get(f"{asked}&neighbours=true"))["hits"]
    words = [
        [message["content"][span["start"] : span["end"]] for span in spans]
        for message, spans in zip(hit["messages"], hit["highlights"], strict=True)
    ]
    assert (hit["ordinal"], words) == (2, [["dogs"], []])
    assert hit["before"]["messages"][0]["content"] == "Where do cats sleep?"
    assert hit["after"] is None  # not archived
    assert 0 < hit["relevance"] < 1
    plain = (await door.get(asked))["hits"]
    assert [each["before"] for each in plain] == [None, None]
    at_least = f"{asked}&min_relevance={hit['relevance']}"
    assert [each["ordinal"] for each in (await door.get(at_least))["hits"]] == [
        each["ordinal"] for each in plain if each["relevance"] >= hit["relevance"]
    ]


async def test_a_search_is_narrowed_to_a_time(door: House) -> None:
    door.talk("a")
    door.evict()
    first, second = sorted(
        turn["started_unix_ns"] for turn in (await door.get("/v1/search?query=cats+dogs"))["hits"]
    )

    for bounds, count in (
        (f"since_unix_ns={first}", 2),
        (f"since_unix_ns={second + 1}", 0),
        (f"until_unix_ns={first}", 0),
        (f"until_unix_ns={second + 1}&since_unix_ns={first}", 2),
    ):
        assert len((await door.get(f"/v1/search?query=cats+dogs&{bounds}"))["hits"]) == count
        text = (await door.get(f"/v1/context?query=cats+dogs&{bounds}"))["text"]
        assert ("dogs" in text) == bool(count)


LONG = "x" * 4097


WRONG = [
    ("/v1/search", 422, "query", ""),
    ("/v1/search?query=", 422, "query", ""),
    ("/v1/search?query=%20", 422, "query", " "),
    (f"/v1/search?query={LONG}", 422, "query", "x" * 64),
    ("/v1/search?query=a&k=0", 422, "k", "0"),
    ("/v1/search?query=a&k=101", 422, "k", "101"),
    ("/v1/search?query=a&k=99999999999999999999", 422, "k", "99999999999999999999"),
    ("/v1/search?query=a&k=five", 422, "k", "five"),
    ("/v1/search?query=a&k=1e3", 422, "k", "1e3"),
    ("/v1/search?query=a&k=%D9%A3", 422, "k", "\u0663"),
    ("/v1/search?query=a&query=b", 422, "query", "b"),
    ("/v1/search?query=a&since_unix_ns=yesterday", 422, "since_unix_ns", "yesterday"),
    ("/v1/search?query=a&until_unix_ns=-1", 422, "until_unix_ns", "-1"),
    ("/v1/search?query=a&min_relevance=1.1", 422, "min_relevance", "1.1"),
    ("/v1/search?query=a&min_relevance=nan", 422, "min_relevance", "nan"),
    ("/v1/search?query=a&neighbours=yes", 422, "neighbours", "yes"),
    ("/v1/context?query=a&neighbours=true", 422, "query", "neighbours"),
    ("/v1/search?query=a&limit=5", 422, "query", "limit"),
    ("/v1/search?query=a&session=", 422, "session", ""),
    ("/v1/search?query=a&session=%00", 422, "session", "\x00"),
    ("/v1/sessions?limit=0", 422, "limit", "0"),
    ("/v1/sessions?limit=1001", 422, "limit", "1001"),
    ("/v1/sessions?limit=-1", 422, "limit", "-1"),
    (f"/v1/sessions?after={LONG}", 422, "after", "x" * 64),
    ("/v1/sessions/a%20b", 422, "session", "a b"),
    ("/v1/sessions/%C3%A9", 422, "session", "\u00e9"),
    (f"/v1/sessions/{'x' * 257}/turns", 422, "session", "x" * 64),
    ("/v1/sessions/a%09b/turns", 422, "session", "a\tb"),
    ("/v1/sessions/a/turns?after=-1", 422, "after", "-1"),
    ("/v1/sessions/nobody", 404, "session", "nobody"),
    ("/v1/sessions/nobody/turns", 404, "session", "nobody"),
    ("/v1/sessions/nobody?limit=5", 422, "query", "limit"),
    ("/v1/notices?state=lost", 422, "state", "lost"),
    ("/v1/notices?after=9223372036854775808", 422, "after", "9223372036854775808"),
    ("/v1/notices/wait?timeout=61", 422, "timeout", "61"),
    ("/v1/notices/stream?session=%20", 422, "session", " "),
]


async def test_what_is_wrong_is_named(door: House) -> None:
    answers = []
    for path, status, _, _ in WRONG:
        problem = await door.get(path, status)
        answers.append((path, problem["status"], problem["field"], problem["value"]))
        assert problem["detail"]
        assert status == 404 or problem["limit"]

    assert answers == WRONG


async def test_unknown_paths_and_methods_are_problems_too(door: House) -> None:
    assert (await door.get("/v2/sessions", 404))["title"] == "Not Found"
    assert (await door.get("/v1/notices/abc/ack", 405))["status"] == 405
    async with door.client.post("/v1/notices/abc/ack") as answer:
        assert answer.status == 404
        assert (await answer.json(content_type=None))["field"] == "notice"


async def test_only_a_loopback_name_is_served(door: House) -> None:
    for host in ("localhost:1", "127.0.0.1", "127.0.0.2:80", "[::1]:80"):
        await door.get("/live", 200, host=host)
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.0.1", "", "[::1"):
        assert (await door.get("/live", 400, host=host))["field"] == "host"


class BrokenArchives(FakeArchives):
    """Stores that cannot even be opened."""

    def of(self, tenant: str) -> Any:
        raise RuntimeError(f"secret of {tenant}")


async def test_a_failure_inside_is_told_without_its_words(tmp_path: Path) -> None:
    async with house(tmp_path, archives=BrokenArchives()) as door:
        problem = await door.get("/v1/sessions/s", 500)

    assert "secret" not in str(problem)


class FullArchives(FakeArchives):
    """Stores on a disk that is full."""

    def of(self, tenant: str) -> Any:
        raise StoreUnavailableError("/var/x.db", "disk full")


async def test_a_store_that_cannot_be_used_now_is_told_with_when_to_come_back(
    tmp_path: Path,
) -> None:
    async with (
        house(tmp_path, archives=FullArchives()) as door,
        door.client.get("/v1/sessions") as answer,
    ):
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "/var" not in await answer.text()


class MortalArchives(FakeArchives):
    """Stores that can be used until they are told."""

    is_down = False

    def of(self, tenant: str) -> Any:
        if self.is_down:
            raise StoreUnavailableError("/var/x.db", "disk full")
        return super().of(tenant)


async def test_a_stream_of_notices_ends_with_its_store_and_goes_on_when_that_is_back(
    tmp_path: Path,
) -> None:
    archives = MortalArchives()
    async with house(tmp_path, archives=archives) as door:
        async with door.client.get("/v1/notices/stream") as events:
            door.talk("a")
            door.evict()
            told = b""
            while b"data: " not in told:
                told += await events.content.readany()
            archives.is_down = True
            door.means.bell.ring()
            rest = await events.content.read()
            assert b"event: notice" not in rest
        again = {"last-event-id": told.split(b"id: ")[1].split(b"\n")[0].decode()}
        async with door.client.get("/v1/notices/stream", headers=again) as refused:
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        archives.is_down = False
        async with door.client.get("/v1/notices/stream", headers=again) as events:
            assert events.status == 200


class DeadReranker:
    def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        raise ModelUnavailableError("reranker", "told so")


async def test_a_line_of_the_log_names_the_trace_of_who_asked(tmp_path: Path) -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    searcher = Searcher(reranker=DeadReranker())
    with json_log() as told:
        async with house(tmp_path, searcher=searcher) as door:
            door.talk("a")
            door.evict()
            url = "/v1/search?query=cats"
            headers = {"traceparent": f"00-{trace}-{span}-01"}
            async with door.client.get(url, headers=headers) as answer:
                assert (await answer.json())["hits"]

    (line,) = (each for each in told if each["target"] == "shepherd_memory.search")
    assert (line["trace_id"], line["span_id"]) == (trace, span)
    assert line["message"].startswith("searching without reranking: ")
