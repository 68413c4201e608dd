"""Guided decoding and logits processors, on every engine, with and without speculation."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer
from torch import Tensor

from engine_calls import (
    Answer,
    EngineName,
    SteppedRunner,
    ask,
    ask_all,
    config,
    make_engine,
    make_runner,
    request,
    started,
    until,
)
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.errors import InvalidRequestError, ProcessorError, UnusableInputError
from shepherd_worker.request import FinishReason, GuidedDecoding, ProcessorCall, Sampling
from tiny_models import tiny_model

ENGINES = pytest.mark.parametrize("name", ["fake", "torch"])
SPECULATIVE = pytest.mark.parametrize("speculative", ["none", "ngram"])
TOKENIZER: Tokenizer = Tokenizer.from_file(str(tiny_model("qwen2") / "tokenizer.json"))
SCHEMA = {
    "type": "object",
    "properties": {
        "lamb": {"type": "boolean"},
        "flock": {"enum": ["north", "south"]},
        "sheep": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 3},
    },
    "required": ["lamb", "flock", "sheep"],
    "additionalProperties": False,
}
PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]
FAVOUR = f"favour={__name__}:Favour"
RELEASE = threading.Event()


class Favour:
    """Makes one token the likeliest."""

    def __init__(self, token_id: int) -> None:
        self._token_id = token_id

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        logits[self._token_id] += 1e6


class Count:
    """Says how often it was called: token 10, 11, 12 ..., for what it has seen."""

    def __init__(self, tokenizer: Any, seen: list[list[int]] | None = None) -> None:
        assert tokenizer.encode("a")
        self._calls = 0

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        assert (
            list(input_ids[-self._calls :]) == list(range(10, 10 + self._calls)) or not self._calls
        )
        logits[10 + self._calls] += 1e6
        self._calls += 1


class Fail:
    """Raises at its third call."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        self._calls += 1
        if self._calls == 3:
            raise RuntimeError("out of grass")


class Block:
    """Never comes back from its second call, until the test says so."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        self._calls += 1
        if self._calls == 2:
            RELEASE.wait(30)


def never_made() -> Favour:
    raise OSError("the shed is locked")


def engine(name: EngineName, **options: Any) -> EmbeddedEngine:
    loaded = tuple(
        f"{word}={__name__}:{factory}"
        for word, factory in {
            "favour": "Favour",
            "count": "Count",
            "fail": "Fail",
            "block": "Block",
            "broken": "never_made",
        }.items()
    )
    return make_engine(name, config(logits_processors=loaded, **options))


def text(answer: Answer) -> str:
    decoded: str = TOKENIZER.decode(answer.token_ids)
    return decoded


def calling(word: str, **arguments: Any) -> dict[str, Any]:
    return {"logits_processors": (ProcessorCall(word, arguments),)}


@ENGINES
@SPECULATIVE
@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(seed=3, temperature=2.0)])
async def test_an_answer_in_a_schema_is_complete_and_valid(
    name: EngineName, speculative: str, sampling: Sampling
) -> None:
    guided = GuidedDecoding("json", json.dumps(SCHEMA), whitespace=" ?")
    made = engine(name, speculative=speculative, speculative_window=2)
    async with started(made):
        calls = [request([*PROMPT, i], 200, sampling=sampling, guided=guided) for i in range(4)]
        answers = await ask_all(made, calls)

    for answer in answers:
        jsonschema.validate(json.loads(text(answer)), SCHEMA)
        assert answer.finish_reason is FinishReason.STOP


@ENGINES
@pytest.mark.parametrize(
    ("guided", "possible"),
    [
        (GuidedDecoding("choice", '["ram", "ewe \\"x\\""]'), {"ram", 'ewe "x"'}),
        (GuidedDecoding("regex", "(ab){2}"), {"abab"}),
        (GuidedDecoding("grammar", 'start: "a" ("b" | "c")'), {"ab", "ac"}),
    ],
)
async def test_an_answer_is_what_the_grammar_leaves(
    name: EngineName, guided: GuidedDecoding, possible: set[str]
) -> None:
    made = engine(name)
    async with started(made):
        answer = await ask(made, request(PROMPT, 20, guided=guided))

    assert text(answer) in possible
    assert answer.finish_reason is FinishReason.STOP


@ENGINES
@pytest.mark.parametrize("ignore_eos", [True, False])
async def test_a_text_that_may_end_ends_where_the_model_says_so_but_not_too_early(
    name: EngineName, ignore_eos: bool
) -> None:
    made = engine(name)
    guided = GuidedDecoding("regex", "a{0,6}")
    async with started(made):
        end = calling("favour", token_id=TOKENIZER.token_to_id("<|im_end|>"))
        call = request(
            PROMPT, 20, guided=guided, ignore_eos=ignore_eos, stops={"min_tokens": 3}, **end
        )
        answer = await ask(made, call)

    assert text(answer) == "aaa"
    assert answer.finish_reason in {FinishReason.EOS, FinishReason.STOP}


@ENGINES
async def test_a_grammar_that_is_complete_ends_the_answer_before_its_minimum(
    name: EngineName,
) -> None:
    made = engine(name)
    async with started(made):
        guided = GuidedDecoding("regex", "ab")
        answer = await ask(made, request(PROMPT, 20, guided=guided, stops={"min_tokens": 9}))

    assert text(answer) == "ab"


@ENGINES
@pytest.mark.parametrize(
    ("guided", "words"),
    [
        (GuidedDecoding("json", '{"type": "sheep"}'), ["guided_decoding.json", "sheep"]),
        (GuidedDecoding("json", "[1]"), ["guided_decoding.json"]),
        (GuidedDecoding("regex", "(["), ["guided_decoding.regex", "unclosed"]),
        (GuidedDecoding("grammar", "start: nothing"), ["guided_decoding.grammar", "nothing"]),
        (GuidedDecoding("structural_tag", "{}"), ["guided_decoding.structural_tag", "structures"]),
    ],
)
async def test_a_wrong_grammar_is_told_before_any_work(
    name: EngineName, guided: GuidedDecoding, words: list[str]
) -> None:
    made = engine(name)
    async with started(made):
        with pytest.raises(InvalidRequestError) as told:
            await ask(made, request(PROMPT, guided=guided))
        stats = made.stats()

    assert all(word in str(told.value) for word in words)
    assert stats.prompt_tokens_total == 0


@ENGINES
@SPECULATIVE
async def test_a_processor_is_called_once_per_token_with_the_tokens_before_it(
    name: EngineName, speculative: str
) -> None:
    made = engine(name, speculative=speculative, speculative_window=1)
    prompt = [*range(10, 20), 10, 11, 12, 9]
    async with started(made):
        answer = await ask(made, request(prompt, 8, **calling("count")))
        stats = made.stats()

    assert answer.token_ids == list(range(10, 18))
    assert (stats.accepted_tokens_total > 0) == (speculative == "ngram")


@ENGINES
async def test_processors_run_in_the_order_of_the_request(name: EngineName) -> None:
    made = engine(name)
    calls = tuple(ProcessorCall("favour", {"token_id": token}) for token in (40, 41))
    async with started(made):
        first = await ask(made, request(PROMPT, 3, logits_processors=calls[:1]))
        both = await ask(made, request(PROMPT, 3, logits_processors=calls))

    assert first.token_ids == [40] * 3
    assert set(both.token_ids) <= {40, 41}


@ENGINES
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (calling("goat"), ["logits_processor='goat'", "block, broken, count, fail, favour"]),
        (calling("favour"), ["logits_processor:favour", "token_id"]),
        (calling("favour", token_id=1, x=2), ["logits_processor:favour", "'x'"]),
    ],
)
async def test_a_processor_that_cannot_be_called_so_is_told_to_the_client(
    name: EngineName, call: dict[str, Any], words: list[str]
) -> None:
    made = engine(name)
    async with started(made):
        with pytest.raises(InvalidRequestError) as told:
            await ask(made, request(PROMPT, **call))

    assert all(word in str(told.value) for word in words)


@ENGINES
async def test_a_processor_that_raises_fails_its_own_request(name: EngineName) -> None:
    made = engine(name)
    async with started(made):
        bad, good = await ask_all(
            made, [request(PROMPT, 8, **calling("fail")), request(PROMPT[1:], 8)]
        )
        stats = made.stats()

    assert bad.finish_reason is FinishReason.ERROR
    assert len(bad.token_ids) == 2
    assert (good.finish_reason, len(good.token_ids)) == (FinishReason.LENGTH, 8)
    assert (stats.processor_failures_total, stats.requests_failed_total) == (1, 1)
    assert stats.blocks_referenced == 0


@ENGINES
async def test_a_processor_that_never_comes_back_fails_its_own_request(name: EngineName) -> None:
    RELEASE.clear()
    made = engine(name, logits_processor_timeout_s=0.05)
    try:
        async with started(made), asyncio.timeout(20):
            bad, good = await ask_all(
                made, [request(PROMPT, 8, **calling("block")), request(PROMPT[1:], 8)]
            )
            stats = made.stats()
    finally:
        RELEASE.set()

    assert (bad.finish_reason, len(bad.token_ids)) == (FinishReason.ERROR, 1)
    assert good.finish_reason is FinishReason.LENGTH
    assert stats.processor_failures_total == 1


async def test_a_processor_that_cannot_be_made_fails_its_request_and_leaves_no_thread() -> None:
    made = engine("fake")
    async with started(made):
        with pytest.raises(ProcessorError, match="the shed is locked"):
            await ask(made, request(PROMPT, **calling("broken")))
        await ask(made, request(PROMPT, **calling("favour", token_id=3)))
        for thread in threading.enumerate():
            if thread.name.startswith("shepherd-processors"):
                thread.join(5)

    assert not [t for t in threading.enumerate() if t.name.startswith("shepherd-processors")]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("goat", ["no entry point", "shepherd.logits_processors"]),
        ("goat=no.such.module:Goat", ["no.such.module"]),
        ("goat=json:Goat", ["Goat"]),
        ("goat=json", ["NAME=module:factory"]),
        ("goat=json:__name__", ["cannot be called"]),
    ],
)
async def test_a_processor_that_cannot_be_loaded_stops_the_start(
    spec: str, words: list[str]
) -> None:
    made = make_engine("fake", config(logits_processors=(spec,)))
    with pytest.raises(UnusableInputError) as told:
        await made.start()
    await made.close()

    assert all(word in str(told.value) for word in ["--logits-processor", spec, *words])


@ENGINES
async def test_dynamo_s_own_processors_run_as_they_are(name: EngineName) -> None:
    examples = "dynamo.logits_processing.examples"
    loaded = (
        f"forced={examples}:ForcedSequenceLogitsProcessor",
        f"temperature={examples}:TemperatureProcessor",
    )
    eos = TOKENIZER.token_to_id("<|im_end|>")
    made = make_engine(name, config(logits_processors=loaded, test_logits_processor=False))
    async with started(made):
        forced = calling("forced", token_ids=[8, 9, 8], eos_token_id=eos)
        answer = await ask(made, request(PROMPT, 9, ignore_eos=False, **forced))
        plain = await ask(made, request(PROMPT, 9))
        colder = await ask(made, request(PROMPT, 9, **calling("temperature", temperature=0.5)))
        with pytest.raises(InvalidRequestError, match="Temperature must be positive"):
            await ask(made, request(PROMPT, **calling("temperature", temperature=0)))

    assert answer.token_ids == [8, 9, 8, eos]
    assert answer.finish_reason is FinishReason.EOS
    assert plain.token_ids == colder.token_ids


@ENGINES
async def test_dynamo_s_test_hook_answers_hello_world(name: EngineName) -> None:
    made = make_engine(name, config(test_logits_processor=True))
    async with started(made):
        answers = await ask_all(made, [request([i], 40, ignore_eos=False) for i in range(3, 6)])

    assert [text(answer) for answer in answers] == ["Hello world!"] * 3


async def test_a_client_that_leaves_is_no_failure_of_its_processors() -> None:
    runner = SteppedRunner(make_runner("fake", limits := config(logits_processors=(FAVOUR,))))
    made = EmbeddedEngine(limits, runner, name="fake")
    async with started(made):
        stream = made.generate(request(PROMPT, 50, **calling("favour", token_id=3)))
        runner.let_go(1)
        await anext(stream)
        await until(lambda: runner.num_begun == 2)
        await stream.aclose()
        runner.let_go(50)
        await until(lambda: made.stats().num_running == 0)
        stats = made.stats()

    assert (stats.requests_failed_total, stats.processor_failures_total) == (0, 0)
