"""The adapter's own promises: failures told apart, nothing lost, an end that cannot hang."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from cache_replica import CacheReplica
from engine_calls import (
    SteppedRunner,
    ask,
    ask_all,
    config,
    make_engine,
    replay,
    request,
    started,
    stepped,
    until,
)
from shepherd_events.events import Attribution
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.embedded.runner import Samples, SamplingError
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.fake import FakeRunner
from shepherd_worker.engine.trtllm.engine import TrtllmEngine
from shepherd_worker.engine.trtllm.library import load_library
from shepherd_worker.engine.trtllm.logits import RequestProcessors
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.engine.trtllm.shutdown import Shutdown
from shepherd_worker.engine.trtllm.stats import IterationStats
from shepherd_worker.errors import (
    EngineDeadError,
    EngineFailedError,
    InvalidRequestError,
    UnusableInputError,
)
from shepherd_worker.request import FinishReason, ProcessorCall, Retention, RetentionRange
from trtllm_fake import VERSIONS, compute_next_with, use_fake_trtllm

PROMPT = range(10, 27)
STATS = json.loads((Path(__file__).parents[2] / "golden" / "trtllm_api.json").read_text())[
    "stats_example"
]


def trtllm(version: str = "1.3.0rc20", **limits: Any) -> TrtllmEngine:
    use_fake_trtllm(version)
    engine = create_engine("trtllm", config(**limits))
    assert isinstance(engine, TrtllmEngine)
    return engine


class FailingRunner(FakeRunner):
    """Computes until a prompt begins with one of two tokens."""

    SPOILT, DEADLY = 300, 301

    def forward(self, plan: StepPlan) -> list[Samples]:
        first = {work.sequence.token_ids[0] for work in plan.work}
        if self.DEADLY in first:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [
            (SamplingError("no token is left"),)
            if work.sequence.token_ids[0] == self.SPOILT
            else samples
            for work, samples in zip(plan.work, super().forward(plan), strict=True)
        ]


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_versions_answer_alike_and_tell_the_same_cache(version: str) -> None:
    """Only the token that ended an answer is kept to itself by some."""
    engine = trtllm(version, num_kv_blocks=24, max_batch_size=4, max_num_tokens=16)
    embedded = make_engine("fake", config(num_kv_blocks=24))
    prompts = [[1, 2, 3, 4] * (i % 3) + [i, 5, i, 6, i] for i in range(12)]
    async with started(embedded):
        expected = [await ask(embedded, request(prompt, 12)) for prompt in prompts]
    info = await engine.start()
    answers = await ask_all(engine, [request(prompt, 12) for prompt in prompts])
    replica = await replay(engine, info)

    assert info.version == version
    assert [answer.token_ids for answer in answers] == [each.token_ids for each in expected]
    assert len(replica.finished) == 12
    assert sorted(map(replica.text, replica.finished)) == sorted(
        [*prompt, *answer.token_ids] for prompt, answer in zip(prompts, answers, strict=True)
    )
    assert len(replica.removed) == engine.stats().blocks_evicted_total > 0
    (losses,) = [m for m in engine.metrics() if m.name == "shepherd_trtllm_event_losses"]
    assert losses.samples[0].value == 0


async def test_lost_events_are_noticed_and_readers_believe_in_nothing_that_is_gone() -> None:
    """A buffer of three events, while the poller has no time: the engine discards the oldest."""
    overrides = json.dumps({"kv_cache_config": {"event_buffer_max_size": 3}})
    engine = trtllm(num_kv_blocks=16, trtllm=TrtllmOptions(override_engine_args=overrides))
    info = await engine.start()
    prompts = [[i, *range(40, 56)] for i in range(20)]
    await ask_all(engine, [request(prompt, 4) for prompt in prompts])
    replica = await replay(engine, info)

    counts = engine._started.ledgers.counts if engine._started else None
    assert counts is not None
    assert counts.losses > 0
    assert counts.lost_events > 0
    assert min(map(replica.text, replica.finished))[:17] == prompts[0]
    assert len(replica.finished) == 20
    assert len(replica.resident) == engine.stats().blocks_cached <= 16


async def test_a_request_that_fails_ends_alone() -> None:
    use_fake_trtllm()
    compute_next_with(FailingRunner(config()))
    engine = trtllm()
    async with started(engine):
        good, bad = await ask_all(engine, [request(PROMPT), request([FailingRunner.SPOILT, 2, 3])])

        assert (good.finish_reason, len(good.token_ids)) == (FinishReason.LENGTH, 8)
        assert (bad.finish_reason, bad.token_ids) == (FinishReason.ERROR, [])
        assert engine.stats().requests_failed_total == 1
        assert engine.is_healthy()


async def test_an_engine_that_dies_takes_every_request_and_reader_along() -> None:
    use_fake_trtllm()
    compute_next_with(FailingRunner(config()))
    engine = trtllm()
    await engine.start()
    calls = [request(PROMPT, 400), request([FailingRunner.DEADLY, 1])]
    answers = await asyncio.gather(*(ask(engine, call) for call in calls), return_exceptions=True)

    assert [type(answer) for answer in answers] == [EngineDeadError] * 2
    assert "TensorRT-LLM failed" in str(answers[0])
    assert not engine.is_healthy()
    with pytest.raises(EngineDeadError):
        await ask(engine, request(PROMPT))
    with pytest.raises(EngineDeadError):
        async for _ in engine.cache_events():
            pass
    await engine.close()


async def test_an_engine_that_says_it_is_not_healthy_is_dead() -> None:
    engine = trtllm()
    await engine.start()
    assert engine._started is not None
    engine._started.llm._check_health = lambda: False
    await until(lambda: not engine.is_healthy())

    with pytest.raises(EngineDeadError, match="not healthy"):
        await ask(engine, request(PROMPT))
    await engine.close()


async def test_a_shutdown_that_hangs_does_not_keep_the_process() -> None:
    use_fake_trtllm()
    ended_with: list[int] = []
    engine = TrtllmEngine(
        config(),
        load_library(),
        shutdown=Shutdown(timeout_s=0.05, exit_grace_s=0.05, exit_process=ended_with.append),
    )
    await engine.start()
    assert engine._started is not None
    llm, hanging = engine._started.llm, threading.Event()
    llm.shutdown = hanging.wait
    async with asyncio.timeout(5):
        await engine.close()
        await until(lambda: bool(ended_with))

    assert ended_with == [EngineFailedError.exit_code]
    hanging.set()
    llm._backend.shutdown()


async def test_closing_while_the_first_token_is_awaited_ends_the_start() -> None:
    use_fake_trtllm()
    runner = SteppedRunner(FakeRunner(config()))
    compute_next_with(runner)
    engine = trtllm()
    starting = asyncio.create_task(engine.start())
    await until(lambda: runner.num_begun == 1)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.01)  # the shutdown waits for the step, as TensorRT-LLM's does
    runner.let_go(10)
    async with asyncio.timeout(10):
        await closing
        with pytest.raises(EngineDeadError):
            await starting

    assert not [t for t in threading.enumerate() if t.name == "trtllm-poller" and t.is_alive()]


async def test_an_engine_that_generates_nothing_does_not_start() -> None:
    use_fake_trtllm()

    class Dead(FakeRunner):
        def forward(self, plan: StepPlan) -> list[Samples]:
            raise RuntimeError("no kernel image is available for execution on the device")

    compute_next_with(Dead(config()))
    engine = trtllm()
    with pytest.raises(
        EngineFailedError, match=r"TensorRT-LLM generates nothing: .*no kernel image"
    ):
        await engine.start()
    await engine.close()


async def test_a_model_that_does_not_load_is_told_in_a_line() -> None:
    overrides = json.dumps({"kv_cache_config": {"max_tokens": 1}})
    engine = trtllm(block_size=1, trtllm=TrtllmOptions(override_engine_args=overrides))
    with pytest.raises(EngineFailedError, match="TensorRT-LLM did not start: 1 KV blocks"):
        await engine.start()
    await engine.close()

    missing = trtllm(model="/no/such/model")
    with pytest.raises(UnusableInputError, match="no such directory"):
        await missing.start()
    await missing.close()


async def test_closing_a_stream_aborts_it_within_a_step() -> None:
    engine, runner = stepped_engine()
    async with started(engine):
        stream = engine.generate(request(PROMPT, 400))
        runner.let_go(3)
        await anext(stream)
        await stream.aclose()
        runner.let_go(2)
        await until(lambda: engine.stats().num_running == 0)
        num_begun = runner.num_begun
        runner.let_go(100)
        answer = await ask(engine, request([5, 6], 2))

        assert len(answer.token_ids) == 2
        assert runner.num_begun <= num_begun + 4


async def test_a_call_that_is_closed_before_it_begins_leaves_nothing_behind() -> None:
    engine = trtllm()
    await engine.start()
    asking = asyncio.create_task(ask(engine, request(PROMPT)))
    while not engine._calls:  # noqa: ASYNC110 - the very moment in which the call was made
        await asyncio.sleep(0)
    await engine.close()
    async with asyncio.timeout(5):
        await engine.drain()
    with pytest.raises(EngineDeadError):
        await asking


def stepped_engine() -> tuple[TrtllmEngine, SteppedRunner]:
    use_fake_trtllm()
    engine, runner = stepped("trtllm")
    assert isinstance(engine, TrtllmEngine)
    return engine, runner


async def test_a_prompt_under_transfer_is_aborted_at_its_first_token_and_not_before() -> None:
    use_fake_trtllm()
    prefill = create_engine("trtllm", config(disaggregated=True))
    async with started(prefill):
        handoff = (await prefill.prefill(request(PROMPT))).handoff
        decode, runner = stepped("trtllm", config(disaggregated=True))
        async with started(decode):
            async with aclosing(decode.generate(request(PROMPT, 400), handoff)) as stream:
                reading = asyncio.create_task(anext(stream))
                await until(lambda: runner.num_begun == 1)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            assert decode.stats().num_running == 1

            runner.let_go(10)
            await until(lambda: decode.stats().num_running == 0)
            runner.let_go(100)


async def test_stop_strings_are_found_and_the_rest_is_not_told() -> None:
    engine = trtllm()
    async with started(engine):
        whole = await ask(engine, request(PROMPT, 40))
        assert engine._started is not None
        tokenizer = engine._started.submissions._tokenizer
        assert tokenizer is not None
        text = tokenizer.decode(whole.token_ids[:10], skip_special_tokens=False)
        stop = next(piece for piece in text.split() if piece.isascii())
        answer = await ask(engine, request(PROMPT, 40, stops={"stop": (stop,)}))

        assert (answer.finish_reason, answer.stop_reason) == (FinishReason.STOP, stop)
        assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
        assert len(answer.token_ids) <= 10


async def test_retention_and_adapters_reach_the_engine(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    pinned = Retention(ranges=(RetentionRange(start=0, stop=16, priority=100, duration_s=9.0),))
    engine = trtllm(num_kv_blocks=18, trtllm=TrtllmOptions(lora_directory=str(tmp_path)))
    async with started(engine):
        await ask(engine, request(PROMPT, 2, retention=pinned))
        for start in (60, 90, 120, 150):
            await ask(engine, request(range(start, start + 20), 2))
        again = await ask(engine, request(PROMPT, 2))
        tuned = await ask(engine, request(PROMPT, 2, lora_name="tuned"))

        assert again.usage is not None
        assert again.usage.cached_tokens == 16
        assert tuned.usage is not None
        assert tuned.usage.cached_tokens == 0
        with pytest.raises(InvalidRequestError, match=r"lora_name='other' .* tuned"):
            await ask(engine, request(PROMPT, lora_name="other"))


async def test_a_host_tier_is_told_as_one() -> None:
    block_bytes = FakeRunner(config()).load().block_bytes
    engine = trtllm(num_kv_blocks=12, host_cache_size=24 * block_bytes)
    info = await engine.start()
    for prompt in (range(10, 50), range(60, 100), range(10, 50)):
        await ask(engine, request(prompt))
    replica = CacheReplica(info.root_hash, info.block_size)
    await engine.close()
    async for batch in engine.cache_events():
        replica.apply(batch)

    stats = engine.stats()
    assert stats.blocks_offloaded_total > 0
    assert stats.blocks_onboarded_total > 0
    assert stats.host_blocks_cached > 0
    assert stats.prompt_tokens_cached_total == 36


async def test_what_the_engine_cannot_do_is_refused_by_name() -> None:
    engine = trtllm(trtllm=TrtllmOptions(guided_decoding_backend="none"))
    async with started(engine):
        with pytest.raises(InvalidRequestError, match="logits_processor='unknown'"):
            await ask(engine, request(PROMPT, logits_processors=(ProcessorCall("unknown"),)))
        assert engine.image_processor() is None


async def test_a_session_stays_on_its_rank_where_the_version_can() -> None:
    seen: list[Any] = []
    for version in ("1.3.0rc20", "1.3.0rc26"):
        engine = trtllm(version, trtllm=TrtllmOptions(conversation_affinity=True))
        async with started(engine):
            assert engine._started is not None
            call = request(PROMPT)
            object.__setattr__(call, "origin", Attribution("r", session_id="talk"))
            seen.append(engine._started.submissions.extras(call).get("conversation_params"))

    assert seen[0] is None
    assert seen[1].conversation_id == "talk"


def test_the_newest_row_of_each_rank_counts_and_rows_may_lack_parts() -> None:
    stats = IterationStats()
    stats.add(STATS)
    stats.add(STATS | {"attentionDpRank": 1, "numQueuedRequests": 3})
    stats.add({"attentionDpRank": 1, "kvCacheStats": None, "numActiveRequests": 2})
    load = stats.load()

    assert (load.num_running, load.num_waiting) == (3, 0)
    assert (load.num_blocks, load.num_used) == (5358, 8)


def ban(token_id: int) -> Any:
    """A processor that never lets a token be chosen."""

    def process(input_ids: Any, logits: torch.Tensor) -> None:
        logits[token_id] = -torch.inf + len(input_ids) * 0

    return process


def test_processors_travel_as_names_and_work_on_the_engines_logits() -> None:
    spec = f"ban={__name__}:ban"
    sent = RequestProcessors((spec,), (ProcessorCall("ban", {"token_id": 3}),), "")
    arrived = pickle.loads(pickle.dumps(sent))
    logits = torch.zeros(1, 1, 8)
    arrived(7, logits, [[1, 2]], None, None)

    assert logits[0, 0].isinf().nonzero().flatten().tolist() == [3]
    with pytest.raises(ValueError, match=r"expected \[1, 1, vocab_size\]"):
        arrived(7, torch.zeros(2, 1, 8), [[1]], None, None)
