"""Dynamo's dictionaries, read and written."""

from __future__ import annotations

from array import array
from typing import Any

import jsonschema
import pytest

from shepherd_worker import schemas
from shepherd_worker.engine.protocol import Handoff, Ticket
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import Choices, FinishReason, TokenChunk, TokenLogprob, Usage
from shepherd_worker.wire import (
    parse_handoff,
    parse_request,
    render_chunk,
    render_handoff,
    to_choices,
    to_generate_request,
)

NULLS: dict[str, Any] = {
    "token_ids": [1, 2],
    "stop_conditions": {"max_tokens": None, "stop": None, "min_tokens": None, "ignore_eos": None},
    "sampling_options": {"n": None, "temperature": None, "top_k": None, "seed": None},
    "output_options": {"logprobs": None},
    "routing": None,
    "agent_context": None,
    "prefill_result": None,
    "some_future_key": {"x": 1},
}


def generate_request(**request: Any) -> Any:
    return to_generate_request(parse_request({"token_ids": [1], **request}), "id")


def test_null_means_the_default_and_unknown_keys_are_ignored() -> None:
    wire = parse_request(NULLS)

    assert to_generate_request(wire, "id") == to_generate_request(
        parse_request({"token_ids": [1, 2]}), "id"
    )


def test_token_ids_may_come_as_packed_bytes() -> None:
    packed = array("I", [5, 70000]).tobytes()

    assert parse_request({"token_ids": packed}).token_ids == [5, 70000]


def test_every_field_reaches_the_engine_request() -> None:
    request = generate_request(
        stop_conditions={
            "max_tokens": 5,
            "min_tokens": 2,
            "stop": ["x"],
            "stop_token_ids": [7],
            "stop_token_ids_hidden": [2],
            "ignore_eos": True,
        },
        sampling_options={"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 4},
        output_options={"logprobs": 2},
        eos_token_ids=[9],
        routing={"cache_salt": "s", "lora_name": "l"},
    )

    assert request.stops.max_tokens == 5
    assert request.stops.stop_token_ids == {7}
    assert request.stops.eos_token_ids == {2, 9}
    assert request.stops.ignore_eos
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 3)
    assert (request.logprobs, request.cache_salt, request.lora_name) == (2, "s", "l")


def test_top_k_of_minus_one_is_off_as_in_openai_clients() -> None:
    assert generate_request(sampling_options={"top_k": -1}).sampling.top_k == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"token_ids": "abc"}, "token_ids='abc' is not valid: expected Input should be a valid list"),
        ({"token_ids": [-1]}, "token_ids=-1 is not valid: expected token ids >= 0"),
        ({"token_ids": [1], "sampling_options": {"temperature": "hot"}}, "sampling_options.temperature='hot' is not valid"),
        ({"token_ids": [1], "sampling_options": {"use_beam_search": True}}, "use_beam_search=True is not valid: expected false"),
        ({"token_ids": [1], "sampling_options": {"length_penalty": 0.5}}, "length_penalty=0.5 is not valid: expected 1"),
        ({"token_ids": [1], "output_options": {"prompt_logprobs": 1}}, "prompt_logprobs=1 is not valid: expected none"),
        ({}, "token_ids={} is not valid: expected Field required"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_value(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        to_generate_request(parse_request(request_), "id")

    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0 is not valid: expected 1 to 128"),
        ({"n": 129}, "n=129 is not valid: expected 1 to 128"),
        ({"n": 3, "best_of": 2}, "best_of=2 is not valid: expected 3, as n is, to 128"),
        ({"best_of": 129}, "best_of=129 is not valid: expected 1, as n is, to 128"),
    ],
)
def test_too_few_and_too_many_choices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        to_choices(parse_request({"token_ids": [1], "sampling_options": options}))

    assert str(error.value).startswith(message)


def test_a_request_has_one_choice_unless_it_asks_for_more() -> None:
    asked = [{}, {"n": 1, "best_of": 1}, {"n": 4}]

    assert [
        to_choices(parse_request({"token_ids": [1], "sampling_options": options}))
        for options in asked
    ] == [Choices(), Choices(), Choices(4, 4)]
    asked_of = {"token_ids": [1], "sampling_options": {"n": 2, "best_of": 5}}
    assert to_choices(parse_request(asked_of)) == Choices(2, 5)


def test_a_chunk_carries_only_what_is_set() -> None:
    assert render_chunk(TokenChunk((1, 2))) == {"token_ids": [1, 2], "index": 0}


def test_a_last_chunk_carries_reason_usage_and_logprobs_as_dynamo_wants_them() -> None:
    chunk = TokenChunk(
        (4,),
        logprobs=(TokenLogprob(4, -0.5, ((4, -0.5), (9, -1.5))),),
        finish_reason=FinishReason.STOP,
        stop_reason="\n",
        usage=Usage(prompt_tokens=10, cached_tokens=8, completion_tokens=3),
    )

    rendered = render_chunk(chunk)

    assert rendered == {
        "token_ids": [4],
        "index": 0,
        "log_probs": [-0.5],
        "top_logprobs": [
            [
                {"rank": 1, "token_id": 4, "token": None, "logprob": -0.5},
                {"rank": 2, "token_id": 9, "token": None, "logprob": -1.5},
            ]
        ],
        "finish_reason": "stop",
        "stop_reason": "\n",
        "completion_usage": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 8},
        },
    }
    jsonschema.validate(rendered, schemas.schemas()["chunk"])


def test_a_handoff_comes_back_as_it_went() -> None:
    handoff = Handoff(
        engine="torch",
        ticket=Ticket(
            addresses=("shm://host/path", "tcp://127.0.0.1:1"),
            transfer_id="ab" * 16,
            fingerprint="00" * 32,
            record_bytes=64,
            num_records=3,
        ),
    )

    assert parse_handoff(render_handoff(handoff)) == handoff
    with pytest.raises(InvalidRequestError, match=r"disaggregated_params\.\w+"):
        parse_handoff({"engine": "other"})


def test_the_schemas_in_the_tree_are_those_of_the_code() -> None:
    for name, schema in schemas.schemas().items():
        path = schemas.DIRECTORY / f"{name}.schema.json"

        assert path.read_text() == schemas.render(schema), "run `make proto`"
        jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(NULLS, schemas.schemas()["request"])
