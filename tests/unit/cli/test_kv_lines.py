"""What `shepherd kv tail` prints, to the letter."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace

import pytest

from shepherd_cli.kv.lines import EventLine, FormatError, LineFormat, lines_of
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlocksCleared,
    BlocksReused,
    Body,
    Frame,
    Goodbye,
    Notice,
    StreamId,
    StreamInfo,
    Tier,
    TurnCompleted,
)
from shepherd_events.subscription_types import Item, Reset, ResetReason
from stream_readers import removed, stored, turn

AT_NS = 1_795_246_777_519_925_157
STREAM = StreamId("worker-1", 0)
ANNA = Attribution("r1", "anna", "tenant-1", 2)


def frame(seq: int, body: Body) -> Frame:
    return Frame(STREAM, 7, seq, AT_NS, body)


def story() -> list[Item]:
    info = StreamInfo(model="qwen", block_size=2, hash_algo="h", engine="torch", engine_version="2")
    spoken = replace(turn(1), origin=ANNA, prompt_tokens=40, cached_tokens=16, generated_tokens=8)
    assert isinstance(spoken, TurnCompleted)
    return [
        frame(1, info),
        frame(
            2,
            BlockBatch(
                (
                    replace(stored(0xC97CDB618BEFD657, 2, parent=9), origin=ANNA),
                    BlocksReused(array("Q", [9]), None, 0, origin=ANNA),
                    removed(5, tier=Tier.HOST),
                    BlocksCleared(Tier.DISK),
                    BlocksCleared(None),
                )
            ),
        ),
        frame(3, spoken),
        frame(4, Notice("n-1", "tenant-1", "anna", (1, 2), ("a", "b"), "topic", "text", 1)),
        Reset(8, 12, (stored(1, 2), stored(7)), ResetReason.LOST),
        frame(13, Goodbye("worker shut down")),
    ]


def shown(show: object, *, with_tokens: bool = False) -> list[str]:
    return [
        show(line)  # type: ignore[operator] # a function
        for item in story()
        for line in lines_of(STREAM, item, at_unix_ns=AT_NS, with_tokens=with_tokens)
    ]


def test_lines_for_people() -> None:
    at = "2026-11-21T07:39:37.519Z  worker-1/0  "
    assert shown(EventLine.to_text) == [
        at + "      1  info                   qwen, 2 tokens a block, torch 2",
        at + "      2  stored   device     2  c97cdb618befd657..0000000000000002 session=anna turn=2 tenant=tenant-1",
        at + "      2  reused   device     1  0000000000000009 session=anna turn=2 tenant=tenant-1",
        at + "      2  removed  host       1  0000000000000005",
        at + "      2  cleared  disk",
        at + "      2  cleared  all",
        at + "      3  turn                   40+8 tokens, 16 cached, stop session=anna turn=2 tenant=tenant-1",
        at + "      4  notice                 turns 1,2 archived, notice n-1 session=anna tenant=tenant-1",
        at + "     12  reset               3  lost: 3 blocks are resident",
        at + "     13  goodbye                worker shut down",
    ]  # fmt: skip


def test_lines_for_programs_hold_what_is_there_and_nothing_else() -> None:
    lines = [json.loads(line) for line in shown(EventLine.to_json)]
    common = {"time": "2026-11-21T07:39:37.519Z", "worker": "worker-1", "rank": 0}

    assert lines[1] == common | {
        "ts_unix_ns": AT_NS,
        "epoch": 7,
        "seq": 2,
        "op": "stored",
        "tier": "device",
        "blocks": 2,
        "tokens": 4,
        "hashes": ["c97cdb618befd657", "0000000000000002"],
        "parent": "0000000000000009",
        "start": 9,
        "session": "anna",
        "tenant": "tenant-1",
        "request": "r1",
        "turn": 2,
    }
    assert lines[3] == common | {
        "ts_unix_ns": AT_NS,
        "epoch": 7,
        "seq": 2,
        "op": "removed",
        "tier": "host",
        "blocks": 1,
        "hashes": ["0000000000000005"],
    }


def test_token_ids_are_shown_to_who_asks_for_them() -> None:
    plain, full = shown(EventLine.to_json), shown(EventLine.to_json, with_tokens=True)

    assert "token_ids" not in "".join(plain)
    assert json.loads(full[1])["token_ids"] == [0x8BEFD657, 0x8BEFD658, 2, 3]


def test_no_text_of_a_conversation_is_in_any_line() -> None:
    for line in shown(EventLine.to_text) + shown(EventLine.to_json):
        assert "topic" not in line
        assert '"text"' not in line


def test_a_format_of_ones_own() -> None:
    show = LineFormat(r"{seq:03} {op:<8}|{hashes}\t{session}").of

    assert shown(show)[:3] == [
        "001 info    |\t",
        "002 stored  |c97cdb618befd657,0000000000000002\tanna",
        "002 reused  |0000000000000009\tanna",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{tme}", "{tme} is not known: expected one of time, ts_unix_ns, worker"),
        ("{}", "{} is not known"),
        ("{time.__class__}", "is not known"),
        ("{hashes[0]}", "is not known"),
        ("{seq:{worker}}", "is not known"),
        ("{seq", "expected '}'"),
        ("{op:d}", "format code 'd'"),
    ],
)
def test_a_format_that_does_not_fit_is_refused_before_anything_is_read(
    text: str, words: str
) -> None:
    with pytest.raises(FormatError) as caught:
        LineFormat(text)

    assert words in str(caught.value)
