"""Whatever is guessed and accepted: the same tokens, blocks and events as without guesses."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_replica import CacheReplica
from engine_calls import config, request
from shepherd_events.block_hash import root_hash
from shepherd_events.events import BlocksStored, CacheContext
from shepherd_worker.engine.embedded.loading import Loaded, load_engine
from shepherd_worker.engine.embedded.runner import Sample, SamplingError
from shepherd_worker.engine.embedded.sampling.sampler import sample
from shepherd_worker.engine.embedded.sampling.speculative import NgramConfig, NgramDrafter
from shepherd_worker.engine.embedded.scheduler import Work
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.fake import FakeRunner, next_token
from shepherd_worker.engine.protocol import CacheEvent, SequenceFinished
from shepherd_worker.engine.telemetry import EngineTelemetry
from shepherd_worker.request import FinishReason, GenerateRequest, Sampling

VOCAB_SIZE = 4
PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=12)


@cache
def three_words() -> str:
    """A "model" of so few tokens that guesses are right now and then."""
    directory = Path(mkdtemp(prefix="three-words-"))
    (directory / "config.json").write_text(
        json.dumps({"vocab_size": VOCAB_SIZE, "eos_token_id": 0})
    )
    return str(directory)


def loaded(**sizes: Any) -> Loaded:
    limits = config(model=three_words(), **sizes)
    return load_engine(FakeRunner(limits), limits, "fake", None, EngineTelemetry())


def sequence(call: GenerateRequest, root: Any, drafter: NgramDrafter | None = None) -> Sequence:
    return Sequence(
        request=call,
        root=root,
        context=CacheContext(),
        eos_token_ids=frozenset({0}),
        max_tokens=call.stops.max_tokens or 1,
        started_unix_ns=1,
        random=Random(call.sampling.seed),
        drafter=drafter,
    )


def expected(prompt: list[int], count: int) -> list[int]:
    tokens = array("I", prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, VOCAB_SIZE, frozenset({0})))
    return tokens[len(prompt) :].tolist()


def run(made: Loaded, sequences: list[Sequence]) -> tuple[list[CacheEvent], int]:
    """Run all to their end; every event, and the number of steps."""
    pool, scheduler = made.core._pool, made.core._scheduler
    size = pool.block_size
    for one in sequences:
        made.core.add(one)
    events: list[CacheEvent] = []
    for step in range(10_000):
        output, busy = made.core.step()
        events += output.events
        pool.check()
        for one in scheduler.running:
            if one.num_uncomputed == 1:
                assert (len(one.block_ids) - 1) * size < len(one.token_ids)
        if not busy and not scheduler.waiting:
            return events, step
    raise AssertionError("the sequences do not end")


@given(
    prompts=st.lists(PROMPTS, min_size=1, max_size=4),
    count=st.integers(1, 30),
    window=st.integers(1, 3),
    max_draft=st.integers(1, 7),
    num_blocks=st.integers(22, 48),
    tokens=st.integers(3, 24),
)
@settings(max_examples=40, deadline=None)
def test_every_answer_is_the_one_without_guesses_however_small_the_cache(
    prompts: list[list[int]],
    count: int,
    window: int,
    max_draft: int,
    num_blocks: int,
    tokens: int,
) -> None:
    made = loaded(num_kv_blocks=num_blocks, block_size=2, max_num_tokens=tokens, max_batch_size=3)
    sequences = [
        sequence(
            request(prompt, count),
            made.info.root_hash,
            NgramDrafter(NgramConfig(window, max_draft)),
        )
        for prompt in prompts
    ]
    events, _ = run(made, sequences)
    replica = CacheReplica(made.info.root_hash, 2)
    replica.apply(events)

    for one, prompt in zip(sequences, prompts, strict=True):
        assert one.token_ids[one.num_prompt :].tolist() == expected(prompt, count)
        assert one.finish_reason is FinishReason.LENGTH
    assert set(replica.resident) == made.core._pool.resident()
    assert made.core.stats().blocks_referenced == 0
    texts = [replica.text(finished) for finished in replica.finished]
    assert sorted(texts) == sorted(one.token_ids.tolist() for one in sequences)


@given(prompt=PROMPTS, count=st.integers(1, 40), max_draft=st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_the_events_of_one_sequence_are_the_very_ones_without_guesses(
    prompt: list[int], count: int, max_draft: int
) -> None:
    told = []
    for drafter in (None, NgramDrafter(NgramConfig(2, max_draft))):
        made = loaded(num_kv_blocks=64, block_size=2)
        events, _ = run(made, [sequence(request(prompt, count), made.info.root_hash, drafter)])
        told.append(events)
    plain, guessed = told

    assert merged(guessed) == merged(plain)


def merged(events: list[CacheEvent]) -> list[Any]:
    """Runs of stored blocks, taken apart; all else as it is."""
    parts: list[Any] = []
    for event in events:
        if isinstance(event, BlocksStored):
            parts += zip(event.block_hashes, range(event.start_block, 10**6), strict=False)
        else:
            assert isinstance(event, SequenceFinished)
            parts.append(event)
    return parts


def test_guesses_that_are_right_save_passes() -> None:
    steps = {}
    for name, drafter in (("plain", None), ("ngram", NgramDrafter(NgramConfig(2, 4)))):
        made = loaded(num_kv_blocks=256, block_size=4)
        one = sequence(request([1, 2, 3] * 3, 120), made.info.root_hash, drafter)
        _, steps[name] = run(made, [one])
        stats = made.core.stats()

    assert steps["plain"] == 120
    assert stats.generated_tokens_total == 120
    assert steps["ngram"] == 120 - stats.accepted_tokens_total < 110
    assert stats.accepted_tokens_total <= stats.drafted_tokens_total
    assert 0 < stats.drafts_total <= steps["ngram"]


def test_guesses_take_only_the_budget_and_the_blocks_that_nobody_else_wants() -> None:
    made = loaded(num_kv_blocks=40, block_size=2, max_num_tokens=8, max_batch_size=4)
    scheduler, root = made.core._scheduler, made.info.root_hash
    old = sequence(request([1, 2, 3, 1, 2, 3], 20), root, NgramDrafter(NgramConfig(1, 7)))
    made.core.add(old)
    made.core.step()
    (alone,) = scheduler.schedule().work

    assert alone.num_tokens == 1 + len(alone.draft) > 1
    scheduler.settle(old, len(alone.draft), len(alone.draft))
    made.core.add(sequence(request([2] * 30, 2), root))
    busy = scheduler.schedule()

    assert [(w.sequence is old, w.num_tokens, len(w.draft)) for w in busy.work] == [
        (True, 1, 0),
        (False, 7, 0),
    ]


def test_a_guess_never_contains_what_would_end_the_sequence() -> None:
    call = request([1, 2, 0, 1, 2, 0, 1], 20, ignore_eos=False)
    one = sequence(call, root_hash(b"m"), NgramDrafter(NgramConfig(2, 7)))

    assert one.draft(7) == (2,)


# -- the distribution -------------------------------------------------------------------------

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.2},
    {"repetition_penalty": 1.5},
    {"frequency_penalty": 1.0, "presence_penalty": 0.5},
]


def verified(rows: torch.Tensor, one: Sequence, draft: tuple[int, ...]) -> list[int]:
    (results,) = sample(rows, [Work(one, one.num_uncomputed + len(draft), draft)])
    return [result.token_id for result in results if isinstance(result, Sample)]


def one_by_one(rows: torch.Tensor, one: Sequence, count: int) -> list[int]:
    tokens = []
    for row in rows[:count]:
        tokens += verified(row[None], one, ())
        one.token_ids.append(tokens[-1])
    return tokens


@given(
    noise=st.integers(0, 1000),
    seed=st.integers(0, 1000),
    draft=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    options=st.sampled_from(SETTINGS),
)
@settings(max_examples=40, deadline=None)
def test_a_seed_means_the_same_with_and_without_guesses(
    noise: int, seed: int, draft: list[int], options: dict[str, Any]
) -> None:
    rows = torch.randn(len(draft) + 1, 6, generator=torch.Generator().manual_seed(noise)) * 2
    call = request([0, 1], 50, sampling=Sampling(seed=seed, **options))
    guessed = verified(rows, with_guess := sequence(call, root_hash(b"m")), tuple(draft))
    plain = one_by_one(rows, without := sequence(call, root_hash(b"m")), len(guessed))

    assert guessed == plain
    assert guessed[:-1] == draft[: len(guessed) - 1]
    assert len(guessed) > len(draft) or guessed[-1] != draft[len(guessed) - 1]
    assert with_guess.random.random() == without.random.random()


@pytest.mark.parametrize("options", SETTINGS[:5])
def test_verified_tokens_have_the_distribution_of_the_model(options: dict[str, Any]) -> None:
    """Pearson's statistic over pairs of tokens; its 99.9th percentile for 24 degrees is 51.2."""
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(7))
    draft = (int(rows[0].argmax()), int(rows[1].argmax()))
    guessed = pairs(rows, range(4000), draft, options)
    plain = pairs(rows, range(4000, 8000), (), options)
    seen = guessed.keys() | plain.keys()
    statistic = sum((guessed[k] - plain[k]) ** 2 / (guessed[k] + plain[k]) for k in seen)

    assert statistic < 51.2
    assert guessed[draft] > 400
    assert sum(n for pair, n in guessed.items() if pair[0] != draft[0]) > 100


def pairs(
    rows: torch.Tensor, seeds: range, draft: tuple[int, ...], options: dict[str, Any]
) -> Counter[tuple[int, ...]]:
    """How often each pair of first tokens came, one trial per seed."""
    many = [
        sequence(request([0], 50, sampling=Sampling(seed=seed, **options)), root_hash(b"m"))
        for seed in seeds
    ]
    works = [Work(one, 1 + len(draft), draft) for one in many]
    taken = sample(rows[: 1 + len(draft)].repeat(len(many), 1), works)
    for one, results in zip(many, taken, strict=True):
        one.token_ids += array("I", [r.token_id for r in results if isinstance(r, Sample)])
    short = [one for one in many if one.num_output < 2]
    seconds = sample(rows[1].repeat(len(short), 1), [Work(one, 2) for one in short])
    for one, (result,) in zip(short, seconds, strict=True):
        assert isinstance(result, Sample)
        one.token_ids.append(result.token_id)
    return Counter(tuple(one.token_ids[1:3]) for one in many)


def test_logprobs_penalties_and_minimum_follow_the_accepted_tokens() -> None:
    rows = torch.tensor([[0.0, 3.0, 0.0], [0.0, 3.0, 2.5], [0.0, 1.0, 9.0]])
    call = request(
        [1],
        50,
        sampling=Sampling(temperature=0, presence_penalty=1.0),
        ignore_eos=False,
        logprobs=0,
        stops={"min_tokens": 3, "stop_token_ids": frozenset({2})},
    )
    one = sequence(call, root_hash(b"m"))
    (results,) = sample(rows, [Work(one, 3, (1, 1))])
    told = [result for result in results if isinstance(result, Sample)]

    assert [result.token_id for result in told] == [1, 1, 1]
    assert [r.logprob.logprob for r in told if r.logprob] == pytest.approx(
        rows.log_softmax(-1)[:, 1].tolist()
    )
    assert one.token_ids.tolist() == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_end_the_run_where_they_stand(temperature: float) -> None:
    rows = torch.zeros(3, 4)
    rows[:, 2] = 50
    rows[1, 0] = float("nan")
    call = request([1], 50, sampling=Sampling(temperature=temperature, seed=1))
    (results,) = sample(rows, [Work(sequence(call, root_hash(b"m")), 3, (2, 2))])
    first, second = results

    assert first == Sample(2)
    assert isinstance(second, SamplingError)
