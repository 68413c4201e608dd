"""A prompt computed elsewhere gives the same answer, and so does one that cannot be fetched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from engine_calls import (
    Answer,
    EngineName,
    ask,
    config,
    make_engine,
    replay,
    request,
    started,
    until,
)
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.protocol import EngineConfig, Handoff
from shepherd_worker.request import FinishReason, Usage

PROMPT = range(10, 27)
"""17 tokens: four full blocks and one more."""
TIMEOUT_S = 0.1


@pytest.fixture(params=["fake", "torch"])
def name(request: pytest.FixtureRequest) -> EngineName:
    chosen: EngineName = request.param
    return chosen


@asynccontextmanager
async def two_engines(
    name: EngineName, limits: EngineConfig | None = None
) -> AsyncIterator[tuple[EmbeddedEngine, EmbeddedEngine]]:
    """A prefill and a decode engine of one model."""
    prefill = make_engine(name, limits)
    decode = make_engine(name, transfer_timeout_s=TIMEOUT_S)
    async with started(prefill), started(decode):
        yield prefill, decode


async def expected(name: EngineName) -> Answer:
    engine = make_engine(name)
    async with started(engine):
        return await ask(engine, request(PROMPT))


def with_ticket(handoff: Handoff, **changes: Any) -> Handoff:
    assert handoff.ticket is not None
    return replace(handoff, ticket=replace(handoff.ticket, **changes))


@asynccontextmanager
async def proxy(
    handoff: Handoff, change: Callable[[bytes], bytes | None]
) -> AsyncIterator[Handoff]:
    """A handoff by way of a proxy that changes what it relays to the client; None cuts the line."""
    ticket = handoff.ticket
    assert ticket is not None
    (tcp,) = (a for a in ticket.addresses if a.startswith("tcp://"))
    host, port = tcp.removeprefix("tcp://").split(":")
    finished: list[asyncio.Task[None]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        finished.append(task)
        upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
        try:
            upstream_writer.write(await reader.read(1 << 16))
            answer = change(await upstream_reader.read())
            if answer is not None:
                writer.write(answer)
                await writer.drain()
        finally:
            upstream_writer.close()
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield with_ticket(handoff, addresses=(address,))
    finally:
        server.close()
        await asyncio.gather(*finished)


async def test_a_decode_fetches_the_prompt_and_answers_as_an_aggregated_engine(
    name: EngineName,
) -> None:
    async with two_engines(name) as (prefill, decode):
        result = await prefill.prefill(request(PROMPT))
        answer = await ask(decode, request(PROMPT), result.handoff)
        await until(lambda: prefill.stats().leases == 0)
        await until(lambda: prefill.stats().blocks_referenced == 0)

        aggregated = await expected(name)
        assert result.chunk.token_ids == tuple(aggregated.token_ids[:1])
        assert result.chunk.finish_reason is None
        assert result.chunk.usage == Usage(17, 0, 1)
        assert result.handoff.ticket is not None
        assert result.handoff.ticket.num_records == 4
        assert answer == aggregated
        stats = decode.stats()
        assert stats.prompt_tokens_transferred_total == 16
        assert stats.transfer_bytes_total == prefill.stats().transfer_bytes_total > 0
        assert stats.transfers_total == {"shm": 1, "tcp": 0}
        assert stats.transfer_failures_total == 0
        assert prefill.stats().leases_expired_total == 0


@pytest.mark.parametrize("way", ["shm", "tcp"])
async def test_32_prompts_at_once_all_arrive_by_the_way_that_was_chosen(
    name: EngineName, way: str
) -> None:
    prompts = [[i, *range(60, 76)] for i in range(32)]
    limits = config(kv_transfer=way)
    prefill, decode = make_engine(name, limits), make_engine(name, limits)
    async with started(prefill), started(decode):
        calls = [request(prompt, 4) for prompt in prompts]
        first = await asyncio.gather(*(prefill.prefill(call) for call in calls))
        answers = await asyncio.gather(
            *(ask(decode, call, r.handoff) for call, r in zip(calls, first, strict=True))
        )
        aggregated = await asyncio.gather(*(ask(prefill, call) for call in calls))
        await until(lambda: prefill.stats().leases == 0)

        assert [a.token_ids for a in answers] == [a.token_ids for a in aggregated]
        assert decode.stats().transfers_total == {way: 32}
        assert decode.stats().transfer_failures_total == 0
        assert decode.stats().prompt_tokens_transferred_total == 32 * 16


async def test_a_decode_fetches_only_what_it_lacks_and_ends_the_lease(name: EngineName) -> None:
    async with two_engines(name) as (prefill, decode):
        await ask(decode, request(range(10, 19), 1))
        result = await prefill.prefill(request(PROMPT))
        partly = await ask(decode, request(PROMPT), result.handoff)
        result = await prefill.prefill(request(PROMPT))
        fully = await ask(decode, request(PROMPT), result.handoff)
        await until(lambda: prefill.stats().leases == 0)

        assert partly.token_ids == fully.token_ids == (await expected(name)).token_ids
        assert partly.usage == Usage(17, 8, 8)
        assert fully.usage == Usage(17, 16, 8)
        assert decode.stats().prompt_tokens_transferred_total == 8
        assert decode.stats().transfer_failures_total == 0


async def test_fetched_blocks_are_told_as_stored(name: EngineName) -> None:
    prefill, decode = make_engine(name), make_engine(name)
    async with started(prefill):
        info = await decode.start()
        result = await prefill.prefill(request(PROMPT))
        answer = await ask(decode, request(PROMPT), result.handoff)
        replica = await replay(decode, info)

    assert len(replica.resident) == 6
    assert replica.text(replica.finished[0]) == [*PROMPT, *answer.token_ids]


async def test_a_short_prompt_needs_no_handoff(name: EngineName) -> None:
    async with two_engines(name) as (prefill, decode):
        result = await prefill.prefill(request([5, 6]))
        answer = await ask(decode, request([5, 6]), result.handoff)

        assert result.handoff.ticket is None
        assert prefill.stats().leases == 0
        assert answer.token_ids[:1] == list(result.chunk.token_ids)
        assert decode.stats().transfer_failures_total == 0


async def test_an_answer_of_one_token_is_complete_with_its_prefill(name: EngineName) -> None:
    async with two_engines(name) as (prefill, _):
        result = await prefill.prefill(request(PROMPT, 1))

        assert result.chunk.finish_reason is FinishReason.LENGTH


async def test_a_lease_that_nobody_fetches_expires_and_is_counted(name: EngineName) -> None:
    async with two_engines(name, config(transfer_lease_s=0.05)) as (prefill, decode):
        result = await prefill.prefill(request(PROMPT))
        assert prefill.stats().leases == 1
        await prefill.drain()
        await until(lambda: prefill.stats().blocks_referenced == 0)

        assert prefill.stats().leases_expired_total == 1
        assert prefill.stats().blocks_cached == 4
        answer = await ask(decode, request(PROMPT), result.handoff)
        assert answer.token_ids == (await expected(name)).token_ids
        assert decode.stats().transfer_failures_total == 1


async def test_leased_blocks_are_not_evicted_until_they_are_fetched(name: EngineName) -> None:
    async with two_engines(name, config(num_kv_blocks=10)) as (prefill, decode):
        result = await prefill.prefill(request(PROMPT))
        for start in (60, 90, 120):
            await ask(prefill, request(range(start, start + 17), 4))
        answer = await ask(decode, request(PROMPT), result.handoff)

        assert prefill.stats().blocks_evicted_total > 0
        assert answer == await expected(name)
        assert decode.stats().transfer_failures_total == 0


FAULTS: dict[str, dict[str, Any]] = {
    "unknown transfer id": {"transfer_id": "0" * 32},
    "no transfer id": {"transfer_id": "nonsense"},
    "another model": {"fingerprint": "00" * 32},
    "no fingerprint": {"fingerprint": "model"},
    "another block size": {"record_bytes": 8},
    "no address": {"addresses": ()},
    "an address that is none": {"addresses": ("tcp://nowhere", "shm://elsewhere/x", "")},
    "a port out of range": {"addresses": ("tcp://127.0.0.1:99999",)},
    "more blocks than leased": {"num_records": 10**6},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_handoff_that_is_wrong_is_computed_instead(name: EngineName, fault: str) -> None:
    async with two_engines(name) as (prefill, decode):
        result = await prefill.prefill(request(range(10, 23)))
        answer = await ask(decode, request(PROMPT), with_ticket(result.handoff, **FAULTS[fault]))

        check_recomputed(answer, await expected(name), decode)
        assert prefill.is_healthy()


def check_recomputed(answer: Answer, aggregated: Answer, decode: EmbeddedEngine) -> None:
    assert answer == aggregated
    assert decode.stats().transfer_failures_total == 1
    assert decode.stats().prompt_tokens_transferred_total == 0
    assert decode.is_healthy()


CHANGES: dict[str, Callable[[bytes], bytes | None]] = {
    "a flipped bit": lambda sent: sent[:100] + bytes([sent[100] ^ 4]) + sent[101:],
    "a flipped bit of the last byte": lambda sent: sent[:-1] + bytes([sent[-1] ^ 1]),
    "another protocol": lambda sent: b"HTTP/1.1 400 Bad Request\r\n\r\n" + sent,
    "another model's frame": lambda sent: sent[:13] + bytes([sent[13] ^ 1]) + sent[14:],
    "half of it": lambda sent: sent[: len(sent) // 2],
    "nothing": lambda sent: None,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_transfer_that_is_damaged_is_computed_instead(
    name: EngineName, change: str
) -> None:
    async with two_engines(name) as (prefill, decode):
        result = await prefill.prefill(request(PROMPT))
        async with proxy(result.handoff, CHANGES[change]) as handoff:
            answer = await ask(decode, request(PROMPT), handoff)

        check_recomputed(answer, await expected(name), decode)
        await until(lambda: prefill.stats().leases == 0)


async def test_a_prefill_worker_that_is_gone_is_computed_for(name: EngineName) -> None:
    async with two_engines(name) as (prefill, decode):
        result = await prefill.prefill(request(PROMPT))
        await prefill.close()
        answer = await ask(decode, request(PROMPT), result.handoff)

        check_recomputed(answer, await expected(name), decode)


async def test_a_prefill_worker_that_is_silent_is_not_waited_for(name: EngineName) -> None:
    async with two_engines(name) as (prefill, decode):
        result = await prefill.prefill(request(PROMPT))
        silence = asyncio.Event()

        async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await silence.wait()
            writer.close()

        async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            handoff = with_ticket(result.handoff, addresses=(f"tcp://127.0.0.1:{port}",))
            answer = await ask(decode, request(PROMPT), handoff)
            silence.set()

        check_recomputed(answer, await expected(name), decode)
