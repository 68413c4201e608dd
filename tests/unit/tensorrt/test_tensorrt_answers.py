"""Growing, shrinking and over-long outputs become the same chunks as every engine's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_calls import request
from shepherd_worker.engine.trtllm.answer import Answer
from shepherd_worker.engine.trtllm.library import Library, load_library
from shepherd_worker.engine.trtllm.sampling import sampling_params
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import FinishReason, GuidedDecoding, Sampling, TokenLogprob, Usage
from trtllm_fake import VERSIONS, use_fake_trtllm

EOS = frozenset({1, 2})


class Result:
    """An output that grows in place, as TensorRT-LLM's does."""

    def __init__(self) -> None:
        self.output = SimpleNamespace(
            token_ids=[], logprobs=[], finish_reason=None, stop_reason=None
        )
        self.outputs = [self.output]
        self.finished = False
        self.cached_tokens = 0

    def end(self, reason: str | None, stop_reason: int | None = None) -> Result:
        self.finished = True
        self.output.finish_reason, self.output.stop_reason = reason, stop_reason
        return self


def answer(max_tokens: int = 100, **fields: Any) -> Answer:
    fields = {"ignore_eos": False} | fields
    return Answer(
        request(range(10, 20), max_tokens, **fields), max_tokens=max_tokens, eos_token_ids=EOS
    )


@given(st.lists(st.integers(0, 4), max_size=8))
def test_every_token_is_told_once_however_the_steps_are_cut(steps: list[int]) -> None:
    reading, result, told = answer(), Result(), list[int]()
    expected = [100 + i for i in range(sum(steps))]
    at = 0
    for step in steps:
        result.output.token_ids.extend(expected[at : at + step])
        at += step
        chunk = reading.read(result)
        told += chunk.token_ids if chunk else ()
    last = reading.read(result.end("length"))

    assert last is not None
    assert told + list(last.token_ids) == expected
    assert (last.finish_reason, last.usage) == (FinishReason.LENGTH, Usage(10, 0, len(expected)))


def test_an_output_that_shrinks_when_a_stop_is_cut_off_takes_nothing_back() -> None:
    reading, result = answer(), Result()
    result.output.token_ids = [7, 8, 9]
    reading.read(result)
    result.output.token_ids = [7, 8]
    last = reading.read(result.end("stop", 9))

    assert last is not None
    assert (last.token_ids, last.finish_reason, last.stop_reason) == ((), FinishReason.STOP, 9)
    assert last.usage == Usage(10, 0, 3)


@pytest.mark.parametrize(
    ("said", "stop_reason", "expected"),
    [
        ("stop", None, (FinishReason.EOS, None)),
        ("stop", 2, (FinishReason.EOS, None)),
        ("stop", 9, (FinishReason.STOP, 9)),
        ("length", None, (FinishReason.LENGTH, None)),
        ("cancelled", None, (FinishReason.CANCELLED, None)),
        ("timeout", None, (FinishReason.ERROR, None)),
        (None, None, (FinishReason.STOP, None)),
    ],
)
def test_reasons_are_ours(
    said: str | None, stop_reason: int | None, expected: tuple[FinishReason, int | None]
) -> None:
    reading, result = answer(), Result()
    last = reading.read(result.end(said, stop_reason))

    assert last is not None
    assert (last.finish_reason, last.stop_reason) == expected


def test_a_prompt_for_another_worker_is_not_finished() -> None:
    reading, result = answer(), Result()
    result.output.token_ids = [5]
    chunk = reading.read(result.end("not_finished"))

    assert chunk is not None
    assert (chunk.token_ids, chunk.finish_reason) == ((5,), None)


def test_what_the_engine_computes_beyond_an_end_is_not_told() -> None:
    reading, result = answer(stops={"min_tokens": 2, "stop_token_ids": frozenset({9})}), Result()
    result.output.token_ids = [9, 5, 9, 6, 6]
    chunk = reading.read(result)

    assert chunk is not None
    assert (chunk.token_ids, chunk.stop_reason) == ((9, 5, 9), 9)
    assert chunk.usage == Usage(10, 0, 3)


def test_logprobs_are_trimmed_to_what_was_asked_and_plain_numbers_are_taken() -> None:
    reading, result = answer(logprobs=1), Result()
    result.output.token_ids = [5, 6]
    table = {5: SimpleNamespace(logprob=-2.0), 8: SimpleNamespace(logprob=-0.5)}
    result.output.logprobs = [table, -0.25]
    chunk = reading.read(result)

    assert chunk is not None
    assert chunk.logprobs == (TokenLogprob(5, -2.0, ((8, -0.5),)), TokenLogprob(6, -0.25))


def library(version: str) -> Library:
    use_fake_trtllm(version)
    return load_library()


@pytest.mark.parametrize("version", VERSIONS)
def test_end_tokens_go_to_the_engine_unless_it_would_stop_too_early(version: str) -> None:
    lib = library(version)

    def ends(**fields: Any) -> tuple[Any, ...]:
        made = sampling_params(
            lib, request([1], 4, **{"ignore_eos": False, **fields}), max_tokens=4, eos_token_ids=EOS
        )
        return made.end_id, made.stop_token_ids, bool(made.ignore_eos), made.min_tokens

    stop = frozenset({9})
    assert ends() == (1, [2], False, None)
    assert ends(stops={"stop_token_ids": stop}) == (1, [2, 9], False, None)
    assert ends(ignore_eos=True) == (-1, None, True, None)
    assert ends(ignore_eos=True, stops={"stop_token_ids": stop}) == (-1, [9], False, None)
    assert ends(stops={"min_tokens": 3, "stop_token_ids": stop}) == (1, None, False, 3)
    late = {"min_tokens": 3, "stop_token_ids": stop}
    assert ends(ignore_eos=True, stops=late) == (-1, None, False, None)


def test_sampling_says_only_what_differs_from_the_default() -> None:
    lib = library("1.3.0rc20")
    sampled = Sampling(temperature=0.7, top_p=0.9, seed=-1, presence_penalty=1.5)
    made = sampling_params(
        lib, request([1], sampling=sampled, logprobs=0), max_tokens=8, eos_token_ids=EOS
    )
    greedy = sampling_params(lib, request([1]), max_tokens=8, eos_token_ids=EOS)

    assert (made.temperature, made.top_p, made.top_k, made.min_p) == (0.7, 0.9, None, None)
    assert (made.seed, made.presence_penalty, made.repetition_penalty) == (2**64 - 1, 1.5, None)
    assert (made.logprobs, made.max_tokens, made.detokenize) == (1, 8, False)
    assert (greedy.temperature, greedy.top_k, greedy.top_p) == (0.0, 1, None)


def test_guided_decoding_is_one_of_the_engines_kinds() -> None:
    lib = library("1.3.0rc20")

    def guided(kind: Any, source: str, **more: Any) -> Any:
        call = request([1], guided=GuidedDecoding(kind, source, **more))
        made = sampling_params(lib, call, max_tokens=8, eos_token_ids=EOS)
        return made.guided_decoding

    assert guided("json", '{"type": "object"}').json == '{"type": "object"}'
    assert guided("regex", "a+").regex == "a+"
    assert guided("choice", '["a.b", "c"]').regex == r"(a\.b)|(c)"
    with pytest.raises(InvalidRequestError, match="guided_whitespace_pattern"):
        guided("json", "{}", whitespace=" ")
