"""A trace is passed on, logged and ended, whether or not anybody collects spans."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_config import OptionError
from shepherd_telemetry.fake import KeptSpans
from shepherd_telemetry.http import TracedHttp
from shepherd_telemetry.logs import JsonLines
from shepherd_telemetry.options import TelemetryOptions
from shepherd_telemetry.spans import NO_SPANS, measured
from shepherd_telemetry.trace_context import (
    TraceContext,
    current,
    current_traceparent,
    each_for,
    parse,
    working_for,
)
from shepherd_worker.tracing import RequestTracing

CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEX = "0123456789abcdef"


@given(
    trace=st.text(HEX, min_size=32, max_size=32),
    span=st.text(HEX, min_size=16, max_size=16),
    sampled=st.booleans(),
)
def test_a_header_is_read_as_it_was_written(trace: str, span: str, *, sampled: bool) -> None:
    context = TraceContext(trace, span, sampled)
    makes_sense = set(trace) != {"0"} and set(span) != {"0"}

    assert parse(context.traceparent) == (context if makes_sense else None)


@pytest.mark.parametrize(
    "wrong", [None, "", "00", HEADER[:-1], HEADER + "-00", HEADER.upper(), "ff" + HEADER[2:]]
)
def test_a_header_that_makes_no_sense_is_none(wrong: str | None) -> None:
    assert parse(wrong) is None


async def test_each_item_is_made_for_the_span_whichever_task_asks() -> None:
    seen: list[TraceContext | None] = []

    async def items() -> AsyncIterator[int]:
        for number in range(3):
            seen.append(current())
            yield number

    passed = each_for(CONTEXT, items())
    asked = [await asyncio.create_task(anext(passed)) for _ in range(3)]  # type: ignore[arg-type]

    assert (asked, seen, current()) == ([0, 1, 2], [CONTEXT] * 3, None)


def test_without_a_collector_the_trace_that_came_is_passed_on() -> None:
    with measured(NO_SPANS, "work", parent=CONTEXT):
        assert current_traceparent() == HEADER
    with measured(NO_SPANS, "work") as span:
        assert span.context is None
        assert current_traceparent() == ""


def test_a_block_that_fails_ends_its_span_with_the_kind_of_failure_only() -> None:
    spans = KeptSpans()
    with suppress(ValueError), measured(spans, "work"):
        raise ValueError("with words that somebody said")

    (span,) = spans.kept
    assert (span.failure, span.attributes) == ("ValueError", {})


def test_a_record_is_one_line_with_its_trace() -> None:
    log = logging.LogRecord("a.b", logging.WARNING, "f.py", 1, "%d were\nlost", (3,), None)
    with working_for(CONTEXT):
        line = JsonLines().format(log)

    assert "\n" not in line
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "WARN",
        "target": "a.b",
        "message": "3 were\nlost",
        "trace_id": CONTEXT.trace_id,
        "span_id": CONTEXT.span_id,
    }


def test_a_record_of_an_exception_is_one_line_too() -> None:
    try:
        {}["x"]
    except KeyError:
        log = logging.LogRecord("a", logging.ERROR, "f.py", 1, "no", (), sys.exc_info())

    told = json.loads(JsonLines().format(log))
    assert told["exception"].endswith("KeyError: 'x'")
    assert "trace_id" not in told


async def worker_chunks(*, fail: bool = False) -> AsyncIterator[dict[str, Any]]:
    yield {"token_ids": [1]}
    if fail:
        raise RuntimeError("why")
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    yield {"token_ids": [2], "finish_reason": "stop", "completion_usage": usage}


async def test_a_worker_s_span_says_what_a_request_cost() -> None:
    spans = KeptSpans()
    tracing = RequestTracing(spans, role="decode", model="m")
    request = {"agent_context": {"session_id": "s"}, "token_ids": [7]}
    chunks = tracing.traced(worker_chunks(), request, {"traceparent": HEADER})

    assert len([each async for each in chunks]) == 2
    (span,) = spans.kept
    assert (span.name, span.parent, span.failure) == ("generate", CONTEXT, "")
    assert span.attributes == {
        "gen_ai.request.model": "m",
        "shepherd.worker.role": "decode",
        "gen_ai.conversation.id": "s",
        "gen_ai.response.finish_reason": "stop",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 8,
    }


async def test_a_worker_s_span_ends_with_a_failure_and_with_a_client_that_leaves() -> None:
    spans = KeptSpans()
    tracing = RequestTracing(spans, role="decode", model="m")
    with suppress(RuntimeError):
        async for _ in tracing.traced(worker_chunks(fail=True), {}, None):
            pass
    left = tracing.traced(worker_chunks(), {}, None)
    await anext(left)
    await left.aclose()  # type: ignore[attr-defined]

    assert [span.failure for span in spans.kept] == ["RuntimeError", "GeneratorExit"]


async def test_dynamos_own_probe_has_no_span() -> None:
    spans = KeptSpans()
    tracing = RequestTracing(spans, role="decode", model="m")

    assert [_ async for _ in tracing.traced(worker_chunks(), {"_HEALTH_CHECK": True}, None)]
    assert spans.kept == []


@pytest.mark.parametrize("path", ["/health", "/live", "/metrics"])
async def test_probes_and_scrapes_have_no_span(path: str) -> None:
    spans = KeptSpans()

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    await TracedHttp(app, spans)({"type": "http", "path": path}, app, app)  # type: ignore[arg-type]
    assert spans.kept == []


def test_a_collector_that_is_no_address_is_refused_by_name() -> None:
    TelemetryOptions(otlp_endpoint="http://127.0.0.1:4318").check_telemetry()
    for wrong in ("127.0.0.1:4318", "grpc://host:4317", "http://"):
        with pytest.raises(OptionError) as caught:
            TelemetryOptions(otlp_endpoint=wrong).check_telemetry()
        assert caught.value.name == "--otlp-endpoint"


def test_spans_bring_a_json_log_as_dynamo_hands_no_trace_on_without() -> None:
    assert TelemetryOptions(otlp_endpoint="http://127.0.0.1:4318").logs_json
    assert TelemetryOptions(log_format="json").logs_json
    assert not TelemetryOptions().logs_json
