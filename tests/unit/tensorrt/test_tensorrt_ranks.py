"""Attention data parallelism: each rank has requests, blocks, events and losses of its own."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import Iterable
from typing import Any

import pytest

from cache_replica import CacheReplica
from engine_calls import Answer, ask, ask_all, config, request, started, until
from shepherd_events.block_hash import root_hash, salt_id
from shepherd_events.events import Attribution, BlocksRemoved, BlocksStored, CacheContext, Tier
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import EngineInfo, EngineStats, SequenceFinished
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.kv_events import (
    EventReader,
    Lost,
    Removed,
    Stored,
    StoredBlock,
)
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.engine.trtllm.ranks import Ledgers
from shepherd_worker.engine.trtllm.tracks import Track
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import FinishReason, GenerateRequest
from trtllm_fake import VERSIONS, use_fake_trtllm

MODEL = b"\x07" * 32
SIZE = 4
PROMPT = range(10, 27)


def ranked(version: str = "1.3.0rc20", *, ranks: int = 2, **limits: Any) -> TrtllmEngine:
    use_fake_trtllm(version)
    options = limits.pop("trtllm", TrtllmOptions(enable_attention_dp=True))
    engine = create_engine("trtllm", config(tensor_parallel_size=ranks, trtllm=options, **limits))
    assert isinstance(engine, TrtllmEngine)
    return engine


def on(rank: int | None, prompt: Iterable[int] = PROMPT, num: int = 8, **more: Any) -> Any:
    return request(prompt, num, dp_rank=rank, **more)


async def replicas(engine: TrtllmEngine, info: EngineInfo) -> list[CacheReplica]:
    """Close an engine and learn what each rank's events said."""
    await engine.close()
    found = [CacheReplica(info.root_hash, info.block_size) for _ in range(info.num_ranks)]
    for rank, replica in enumerate(found):
        async for batch in engine.cache_events(rank):
            replica.apply(batch)
    return found


def ids(replica: CacheReplica) -> set[str]:
    """The requests whose ends a rank told, the warm-up's apart."""
    return {each.origin.request_id for each in replica.finished if each.origin is not None}


def cached(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.cached_tokens


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_request_runs_on_the_rank_that_was_chosen_and_is_told_of_there(
    version: str,
) -> None:
    engine = ranked(version)
    info = await engine.start()
    first = await ask(engine, on(1, request_id="a"))
    there = await ask(engine, on(1, request_id="b"))
    elsewhere = await ask(engine, on(0, request_id="c"))
    left, right = await replicas(engine, info)

    assert info.num_ranks == 2
    assert [cached(each) for each in (first, there, elsewhere)] == [0, 16, 0]
    assert first.token_ids == there.token_ids == elsewhere.token_ids
    assert (ids(left), ids(right)) == ({"c"}, {"a", "b"})
    assert sorted(left.resident) == sorted(right.resident)
    for replica in (left, right):
        for end in replica.finished:
            if end.origin is not None:
                assert replica.text(end) == [*PROMPT, *first.token_ids]


async def test_requests_without_a_rank_are_told_of_once_where_their_blocks_are() -> None:
    engine = ranked(ranks=3)
    info = await engine.start()
    calls = [on(None, [n, *PROMPT], 10, request_id=str(n)) for n in range(9)]
    answers = await ask_all(engine, calls)
    found = await replicas(engine, info)
    texts = {
        end.origin.request_id: replica.text(end)
        for replica in found
        for end in replica.finished
        if end.origin is not None
    }

    assert sum(len(ids(replica)) for replica in found) == 9
    assert all(ids(replica) for replica in found)
    for call, answer in zip(calls, answers, strict=True):
        assert texts[call.request_id] == [*call.token_ids, *answer.token_ids]
    for replica in found:
        for end in replica.finished:
            assert end.num_full_blocks == (len(replica.text(end)) - 1) // info.block_size


async def test_a_rank_that_there_is_not_is_refused_by_name() -> None:
    engine = ranked()
    async with started(engine):
        with pytest.raises(InvalidRequestError, match=r"dp_rank=2 is not valid: expected 0 to 1"):
            await ask(engine, on(2))
    plain = create_engine("trtllm", config())
    async with started(plain):
        assert len((await ask(plain, on(0))).token_ids) == 8
        with pytest.raises(InvalidRequestError, match="dp_rank=1"):
            await ask(plain, on(1))


async def test_sizes_and_load_are_of_all_ranks_and_of_each() -> None:
    engine = ranked(num_kv_blocks=32)

    async def ask_again_and_again() -> None:
        while True:
            await ask(engine, on(1, num=100))

    def load() -> EngineStats:
        seen.append(engine.stats())
        return seen[-1]

    async with started(engine) as info:
        seen: list[EngineStats] = []
        asking = asyncio.create_task(ask_again_and_again())
        await until(lambda: sum(load().rank_blocks_referenced) > 0)
        busy = seen[-1]
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: load().num_running == 0)
        idle = seen[-1]

    assert info.num_blocks[Tier.DEVICE] == 64
    assert busy.rank_blocks_referenced[0] == 0 < busy.rank_blocks_referenced[1]
    assert busy.blocks_referenced == sum(busy.rank_blocks_referenced)
    assert idle.rank_blocks_referenced == (0, 0)
    assert idle.blocks_referenced + idle.blocks_cached + idle.blocks_empty == 64


@pytest.mark.parametrize(
    ("version", "same"), [("1.3.0rc20", False), ("1.3.0rc26", True)], ids=["older", "newer"]
)
async def test_a_session_stays_on_the_rank_it_began_on_where_the_version_can(
    version: str, same: bool
) -> None:
    """Affinity is the engine's: the router's choice of a rank is not forced on it then."""
    affine = TrtllmOptions(enable_attention_dp=True, conversation_affinity=True)
    engine = ranked(version, trtllm=affine)
    async with started(engine):
        first = await ask(engine, of_session("talk", on(None)))
        await ask(engine, of_session("other", on(None, [5, *PROMPT])))
        again = await ask(engine, of_session("talk", on(1 if same else 0)))

    assert (cached(first), cached(again)) == (0, 16 if same else cached(again))
    if not same:
        assert engine._started is not None
        call = of_session("talk", on(0))
        extras = engine._started.submissions.extras(call)
        assert extras["scheduling_params"].attention_dp_rank == 0


def of_session(name: str, call: GenerateRequest) -> GenerateRequest:
    object.__setattr__(call, "origin", Attribution(call.request_id, session_id=name))
    return call


def stored(tokens: Iterable[int], names: Iterable[Any], parent: Any = None) -> Stored:
    values = array("I", tokens)
    runs = [values[at : at + SIZE] for at in range(0, len(values), SIZE)]
    blocks = (
        StoredBlock(name, run, "", has_media=False, level=0)
        for name, run in zip(names, runs, strict=True)
    )
    return Stored(parent, tuple(blocks))


def track(tokens: Iterable[int], request_id: str, rank: int | None = None) -> Track:
    return Track(
        context=CacheContext(cache_salt_id=salt_id("")),
        root=root_hash(MODEL),
        token_ids=array("I", tokens),
        origin=Attribution(request_id),
        started_unix_ns=1,
        rank=rank,
    )


def ledgers_of(*tracks: Track) -> Ledgers:
    made = Ledgers(SIZE, MODEL, num_ranks=2)
    for each in tracks:
        made.tracks.add(each)
    return made


def told(ledgers: Ledgers) -> dict[int, list[type]]:
    return {rank: [type(event) for event in batch] for rank, batch in ledgers.drain()}


def test_each_rank_tells_its_own_copy_of_a_block() -> None:
    ledgers = ledgers_of()
    for rank in (0, 1):
        ledgers.apply(rank, stored(range(4), ["same"]))
    assert told(ledgers) == {0: [BlocksStored], 1: [BlocksStored]}
    assert ledgers.num_resident[Tier.DEVICE] == 2

    ledgers.apply(0, Removed(("same",)))
    assert told(ledgers) == {0: [BlocksRemoved]}
    assert ledgers.num_resident[Tier.DEVICE] == 1


def test_a_loss_concerns_its_rank_alone() -> None:
    ledgers = ledgers_of()
    ledgers.apply(0, stored(range(4), ["a"]))
    ledgers.apply(1, stored(range(10, 14), ["b"]))
    told(ledgers)
    ledgers.apply(0, Lost(1))

    assert told(ledgers) == {0: [BlocksRemoved]}
    assert ledgers.num_resident[Tier.DEVICE] == 1


def test_the_first_block_that_only_one_request_can_fill_says_where_it_runs() -> None:
    mine = track(range(9), "mine")
    ledgers = ledgers_of(mine)
    ledgers.apply(1, stored(range(8), ["a", "b"]))
    ledgers.finish(mine, FinishReason.LENGTH, 0, deadline=9)
    ledgers.settle(0)

    assert mine.rank == 1
    assert told(ledgers) == {1: [BlocksStored, SequenceFinished]}


def test_alike_requests_on_two_ranks_each_end_where_they_are() -> None:
    """Their prompts cannot tell them apart, their answers do."""
    twins = [track(range(8), name) for name in ("one", "two")]
    ledgers = ledgers_of(*twins)
    for rank in (0, 1):
        ledgers.apply(rank, stored(range(8), ["a", "b"]))
    for twin, rank, token in zip(twins, (1, 0), (50, 60), strict=True):
        ledgers.tracks.extend(twin, [token] * 5)
        ledgers.apply(rank, stored([token] * 4, ["c"], parent="b"))
        ledgers.finish(twin, FinishReason.LENGTH, 0, deadline=9)
    ledgers.settle(0)
    ends = {
        event.origin.request_id: rank
        for rank, batch in ledgers.drain()
        for event in batch
        if isinstance(event, SequenceFinished) and event.origin is not None
    }

    assert ends == {"one": 1, "two": 0}


def test_a_sequence_shorter_than_a_block_ends_at_its_deadline_with_all_its_text() -> None:
    short = track(range(2), "short")
    ledgers = ledgers_of(short)
    ledgers.tracks.extend(short, [7])
    ledgers.finish(short, FinishReason.EOS, 0, deadline=9)
    ledgers.settle(0)
    ((rank, batch),) = ledgers.drain()
    (end,) = batch

    assert rank == 0
    assert isinstance(end, SequenceFinished)
    assert list(end.tail_token_ids) == [0, 1, 7]


def test_an_event_of_an_unknown_rank_is_counted_and_told_to_nobody() -> None:
    reader = EventReader(num_ranks=2)
    removed = {"type": "removed", "block_hashes": [1]}
    events = [
        {"event_id": 0, "data": removed, "window_size": 1, "attention_dp_rank": rank}
        for rank in (0, 1, 2)
    ]

    assert [rank for rank, _ in reader.read(events)] == [0, 1]
    assert reader.num_unknown == 1


async def test_overrides_decide_how_many_ranks_there_are() -> None:
    """What `LLM` was made with counts, not what the options said."""
    overrides = json.dumps({"enable_attention_dp": True})
    engine = ranked(trtllm=TrtllmOptions(override_engine_args=overrides))
    async with started(engine) as info:
        assert info.num_ranks == 2
