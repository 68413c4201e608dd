"""KV that came back from a directory gives transformers' own greedy tokens."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine_calls import Answer, ask, ask_all, config, make_engine, request, started
from shepherd_worker.engine.protocol import EngineStats
from tiny_models import Kind
from transformers_answers import generated

LENGTH = 14


@pytest.fixture(params=["llama", "qwen2", "qwen3", "mistral"])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


async def run(
    kind: Kind, path: Path, prompts: list[list[int]], **limits: Any
) -> tuple[list[Answer], EngineStats]:
    """Ask a fresh engine all at once."""
    engine = make_engine("torch", config(kind, kv_connector=f"disk:{path}", **limits))
    async with started(engine):
        answers = await ask_all(engine, [request(prompt, LENGTH) for prompt in prompts])
        await engine.drain()
        return answers, engine.stats()


async def test_answers_after_a_restart_are_those_of_generate(kind: Kind, tmp_path: Path) -> None:
    random = Random(3)
    common = random.choices(range(2, 300), k=21)
    prompts = [common + random.choices(range(2, 300), k=n) for n in (3, 8, 30)]
    expected = [generated(kind, tuple(prompt), LENGTH) for prompt in prompts]
    before, _ = await run(kind, tmp_path / "kv", prompts)
    after, stats = await run(kind, tmp_path / "kv", prompts)

    assert [answer.token_ids for answer in before] == expected
    assert [answer.token_ids for answer in after] == expected
    assert [a.usage and a.usage.cached_tokens for a in after] == [20, 28, 48]
    assert stats.prompt_tokens_loaded_total + stats.prompt_tokens_cached_total == 20 + 28 + 48
    assert stats.kv_store is not None
    assert stats.kv_store.saved_bytes_total == 0


async def test_answers_are_those_of_generate_while_every_tier_is_too_small(
    kind: Kind, tmp_path: Path
) -> None:
    random = Random(4)
    prompts = [random.choices(range(2, 300), k=n) for n in (17, 22, 29, 33)]
    expected = [generated(kind, tuple(prompt), LENGTH) for prompt in prompts]
    small = {"num_kv_blocks": 14, "max_num_tokens": 16, "kv_connector_size": 40_000}
    before, _ = await run(kind, tmp_path / "kv", prompts, **small)
    after, stats = await run(kind, tmp_path / "kv", [*prompts, *prompts], **small)

    assert [answer.token_ids for answer in before] == expected
    assert [answer.token_ids for answer in after] == expected + expected
    assert stats.blocks_evicted_total > 0
    assert stats.prompt_tokens_loaded_total > 0
    assert stats.kv_store is not None
    assert stats.kv_store.blocks_evicted_total > 0
    assert stats.kv_store.failures_total == 0


async def test_another_precision_finds_nothing(tmp_path: Path) -> None:
    prompt = list(range(10, 40))
    path = tmp_path / "kv"
    await run("llama", path, [prompt])
    (answer,), _ = await run("llama", path, [prompt], dtype="bfloat16")
    (smaller,), _ = await run("llama", path, [prompt], block_size=8)

    assert answer.usage is not None
    assert answer.usage.cached_tokens == 0
    assert smaller.usage is not None
    assert smaller.usage.cached_tokens == 0


async def test_drafts_and_stored_kv_go_together(tmp_path: Path) -> None:
    prompt = [5, 6, 7, 8] * 6
    engine = make_engine("torch", config(kv_connector=f"disk:{tmp_path}/kv", speculative="ngram"))
    async with started(engine):
        await ask(engine, request(prompt, LENGTH))
        await engine.drain()
    (after,), stats = await run("qwen2", tmp_path / "kv", [prompt], speculative="ngram")

    assert after.token_ids == generated("qwen2", tuple(prompt), LENGTH)
    assert stats.prompt_tokens_loaded_total == 20
