"""Which token follows from hand-made logits, and what is said of its probability."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from engine_calls import request
from shepherd_events.block_hash import root_hash
from shepherd_events.events import CacheContext
from shepherd_worker.engine.embedded.runner import Sample, SamplingError
from shepherd_worker.engine.embedded.sampling.sampler import sample as sample_works
from shepherd_worker.engine.embedded.scheduler import Work
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.request import Sampling, TokenLogprob

QUARTERS = [0.5, 0.25, 0.125, 0.0625, 0.0625]
"""Probabilities of tokens 0 to 4, exact in binary."""


class Dice(Random):
    """Gives the numbers it is told to."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0)


def sequence(
    *,
    prompt: list[int] | None = None,
    output: list[int] | None = None,
    random: Random | None = None,
    logprobs: int | None = None,
    stops: dict[str, Any] | None = None,
    **settings: Any,
) -> Sequence:
    call = request(
        prompt or [0], 100, sampling=Sampling(**settings), logprobs=logprobs, stops=stops
    )
    made = Sequence(
        request=call,
        root=root_hash(b"model"),
        context=CacheContext(),
        eos_token_ids=frozenset({4}),
        max_tokens=100,
        started_unix_ns=1,
        random=random or Random(settings.get("seed")),
    )
    made.token_ids += array("I", output or [])
    return made


def sample(rows: Tensor, sequences: list[Sequence]) -> list[Sample | SamplingError]:
    """One token after each sequence, from its row."""
    works = [Work(one, one.num_uncomputed) for one in sequences]
    return [result for (result,) in sample_works(rows, works)]


def logits(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def chosen(row: Tensor, one: Sequence) -> int:
    (result,) = sample(row[None], [one])
    assert isinstance(result, Sample)
    return result.token_id


def reached(probabilities: list[float], **settings: Any) -> list[float]:
    """The share of every token, from 1024 evenly spread random numbers; exact to 1/1024."""
    numbers = [(i + 0.5) / 1024 for i in range(1024)]
    rows = logits(*probabilities).expand(1024, -1)
    results = sample(rows, [sequence(random=Dice(u), **settings) for u in numbers])
    counts = Counter(r.token_id for r in results if isinstance(r, Sample))
    return [counts[token] / 1024 for token in range(len(probabilities))]


@pytest.mark.parametrize(
    ("filters", "shares"),
    [
        ({}, QUARTERS),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 9}, QUARTERS),
        ({"top_p": 0.5}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.51}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.875}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.25}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"temperature": 0.5}, [64 / 86, 16 / 86, 4 / 86, 1 / 86, 1 / 86]),
        ({"temperature": 0.5, "min_p": 0.2}, [4 / 5, 1 / 5, 0, 0, 0]),
        ({"temperature": 1e-4}, [1, 0, 0, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_their_filtered_probability_says(
    filters: dict[str, Any], shares: list[float]
) -> None:
    assert reached(QUARTERS, **filters) == pytest.approx(shares, abs=1.5 / 1024)


def test_the_order_of_the_vocabulary_does_not_matter_to_the_filters() -> None:
    assert reached([0.0625, 0.125, 0.5, 0.0625, 0.25], top_k=2) == pytest.approx(
        [0, 0, 2 / 3, 0, 1 / 3], abs=1.5 / 1024
    )


@pytest.mark.parametrize("u", [0.0, 0.5, math.nextafter(1, 0)])
def test_the_extremes_of_chance_stay_among_what_is_possible(u: float) -> None:
    row = logits(0.0, 0.5, 0.5, 0.0, 0.0)

    assert chosen(row, sequence(random=Dice(u))) in {1, 2}
    assert chosen(row, sequence(random=Dice(u), top_p=0.9)) in {1, 2}


@given(seed=st.integers(0, 2**32), place=st.integers(0, 4), noise=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_seed_means_the_same_in_every_batch(seed: int, place: int, noise: int) -> None:
    table = torch.randn(6, 50, generator=torch.Generator().manual_seed(noise))
    mine: dict[str, Any] = {"seed": seed, "temperature": 0.8, "top_p": 0.9}
    others: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 1},
        {"seed": 2, "top_k": 3},
        {"seed": 3, "frequency_penalty": 1.0},
    ]
    alone, together = sequence(**mine), sequence(**mine)
    crowd = [sequence(**other) for other in others]
    crowd.insert(place, together)
    for step in range(3):
        (own,) = sample(table[step][None], [alone])
        rows = table[torch.tensor([(step + at - place) % 6 for at in range(5)])]

        assert sample(rows, crowd)[place] == own


def test_seeds_differ_and_no_seed_is_a_fresh_one() -> None:
    row = torch.zeros(1000)

    assert len({chosen(row, sequence(seed=seed)) for seed in range(20)}) > 15
    assert len({chosen(row, sequence()) for _ in range(20)}) > 15


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    row = torch.tensor([0.0, 3.0, 3.0, 1.0])

    assert chosen(row, sequence(temperature=0)) == 1
    assert chosen(row, sequence(temperature=5.0, top_k=1)) == 1


@given(
    scores=st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6),
    seen=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    penalty=st.sampled_from([0.5, 1.3, 2.0]),
    split=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_the_repetition_penalty_is_that_of_transformers(
    scores: list[float], seen: list[int], penalty: float, split: int
) -> None:
    row = torch.tensor([scores])
    processed = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), row.clone())
    one = sequence(
        prompt=seen[:split], output=seen[split:], temperature=0, repetition_penalty=penalty
    )

    assert chosen(row[0], one) == int(processed.argmax())


@pytest.mark.parametrize(
    ("output", "penalties", "token"),
    [
        ([1, 1], {"frequency_penalty": 0.4}, 1),
        ([1, 1, 1], {"frequency_penalty": 0.4}, 2),
        ([1, 1, 1], {"presence_penalty": 0.9}, 1),
        ([1], {"presence_penalty": 1.1}, 2),
        ([1], {"frequency_penalty": 0.6, "presence_penalty": 0.6}, 2),
        ([2], {"presence_penalty": -1.1}, 2),
        ([], {"frequency_penalty": 2.0, "presence_penalty": 2.0}, 1),
    ],
)
def test_presence_counts_once_and_frequency_every_time_in_the_output_alone(
    output: list[int], penalties: dict[str, Any], token: int
) -> None:
    row = torch.tensor([0.0, 2.0, 1.0, 0.0])
    one = sequence(prompt=[1, 1, 1], output=output, temperature=0, **penalties)

    assert chosen(row, one) == token


def test_what_would_end_the_sequence_too_early_is_not_sampled() -> None:
    row = torch.tensor([0.0, 5.0, 6.0, 1.0, 9.0])
    stops = {"min_tokens": 2, "ignore_eos": False, "stop_token_ids": frozenset({2})}
    outputs: list[list[int]] = [[], [1], [1, 1]]

    assert [
        chosen(row, sequence(output=output, temperature=0, stops=stops)) for output in outputs
    ] == [1, 1, 4]


def test_logprobs_are_the_model_s_own_whatever_was_asked_of_sampling() -> None:
    row = torch.tensor([0.5, 2.0, 1.0, -1.0])
    own = row.log_softmax(-1).tolist()
    one = sequence(prompt=[1], temperature=0, repetition_penalty=9.0, logprobs=2)
    (result,) = sample(row[None], [one])

    assert result == Sample(2, TokenLogprob(2, own[2], ((1, own[1]), (2, own[2]))))


def test_every_row_gets_the_alternatives_that_it_asked_for() -> None:
    rows = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    asked = [0, None, 20]
    results = sample(rows, [sequence(temperature=0, logprobs=count) for count in asked])
    told = [r.logprob for r in results if isinstance(r, Sample)]

    assert told[1] is None
    assert [len(t.top) for t in told if t is not None] == [0, 20]
    assert told[2] is not None
    assert told[2].top[0] == (told[2].token_id, told[2].logprob)
    best = rows[2].log_softmax(-1).topk(20)
    assert [token for token, _ in told[2].top] == best.indices.tolist()
    assert [value for _, value in told[2].top] == pytest.approx(best.values.tolist())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_fail_their_own_row_only(broken: float) -> None:
    rows = torch.zeros(2, 4)
    rows[0, 2] = broken
    failed, fine = sample(rows, [sequence(seed=1), sequence(temperature=0)])

    assert isinstance(failed, SamplingError)
    assert fine == Sample(0)


def test_the_logits_are_left_as_they_were() -> None:
    rows = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    before = rows.clone()
    sample(rows, [sequence(repetition_penalty=2.0), sequence(temperature=0.5, top_k=2)])

    assert torch.equal(rows, before)
