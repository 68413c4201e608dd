"""Guided decoding and logits processors, as Dynamo's frontend hands them over."""

from __future__ import annotations

from typing import Any

import pytest

from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GenerateRequest, GuidedDecoding, ProcessorCall
from shepherd_worker.wire import parse_request, to_generate_request


def read(**fields: Any) -> GenerateRequest:
    return to_generate_request(parse_request({"token_ids": [1], **fields}), "id")


def guided(**fields: Any) -> GuidedDecoding | None:
    return read(sampling_options={"guided_decoding": fields}).guided


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"json": {"type": "object"}}, GuidedDecoding("json", '{"type": "object"}')),
        ({"json": '{"type":"object"}'}, GuidedDecoding("json", '{"type": "object"}')),
        ({"json": True}, GuidedDecoding("json", "true")),
        ({"regex": "a+", "json": None}, GuidedDecoding("regex", "a+")),
        ({"choice": ["a", "b"]}, GuidedDecoding("choice", '["a", "b"]')),
        ({"grammar": 'start: "a"'}, GuidedDecoding("grammar", 'start: "a"')),
        ({"json": {}, "whitespace_pattern": " "}, GuidedDecoding("json", "{}", " ")),
        ({"regex": "a", "backend": "xgrammar"}, GuidedDecoding("regex", "a")),
        (
            {"structural_tag": {"triggers": []}},
            GuidedDecoding("structural_tag", '{"triggers": []}'),
        ),
        ({}, None),
        ({"backend": "auto"}, None),
    ],
)
def test_each_kind_of_grammar_is_read(sent: dict[str, Any], meant: GuidedDecoding | None) -> None:
    assert guided(**sent) == meant


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"json": "{"}, ["guided_decoding.json='{'", "JSON document"]),
        ({"json": {}, "regex": "a"}, ["guided_decoding=['json', 'regex']", "one of them"]),
        ({"choice": []}, ["guided_decoding.choice=[]", "at least one"]),
        ({"choice": "yes"}, ["sampling_options.guided_decoding.choice='yes'", "list"]),
        ({"regex": 5}, ["sampling_options.guided_decoding.regex=5"]),
    ],
)
def test_a_grammar_that_is_none_is_named(sent: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as told:
        guided(**sent)

    assert all(word in str(told.value) for word in words)


def test_processors_are_annotations_among_others() -> None:
    request = read(
        annotations=[
            "token_ids",
            "logits_processor:first",
            'logits_processor:second:{"text": "a:b", "n": [1]}',
            "logits_processors:third",
        ]
    )

    assert request.logits_processors == (
        ProcessorCall("first"),
        ProcessorCall("second", {"text": "a:b", "n": [1]}),
    )


@pytest.mark.parametrize("arguments", ["{", "[1]", "5"])
def test_arguments_that_are_no_object_are_named(arguments: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"logits_processor:first=.*JSON object"):
        read(annotations=[f"logits_processor:first:{arguments}"])
