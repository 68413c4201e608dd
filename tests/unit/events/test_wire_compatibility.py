"""Version 1 only grows: it is compared with what was released, and read by other languages.

`tests/golden/v1.descriptors.binpb` is the schema as released.  After an addition:
    python -m grpc_tools.protoc -I proto --descriptor_set_out=tests/golden/v1.descriptors.binpb \\
        proto/shepherd_events/v1/*.proto
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import Message

from shepherd_events.v1 import kv_events_pb2, notices_pb2, turns_pb2

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "tests" / "golden" / "v1.descriptors.binpb"
GOLDEN: dict[str, dict[str, object]] = json.loads(
    (ROOT / "tests" / "golden" / "kv_frames.json").read_text("utf-8")
)
NODE_READER = ROOT / "tests" / "golden" / "read_frames.cjs"


def current() -> dict[str, FileDescriptorProto]:
    files = {}
    for module in (kv_events_pb2, notices_pb2, turns_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files[file.name] = file
    return files


def released() -> list[FileDescriptorProto]:
    return list(FileDescriptorSet.FromString(RELEASED.read_bytes()).file)


def breaks(before: FileDescriptorProto, after: FileDescriptorProto | None) -> Iterator[str]:
    """What a reader or writer of `before` cannot do with `after`."""
    if after is None or after.package != before.package:
        yield f"{before.name} is gone, or its package {before.package}"
        return
    messages = {message.name: message for message in after.message_type}
    for message in before.message_type:
        yield from _message_breaks(message, messages.get(message.name))
    enums = {enum.name: enum for enum in after.enum_type}
    for enum in before.enum_type:
        yield from _enum_breaks(enum, enums.get(enum.name))


def _message_breaks(before: DescriptorProto, after: DescriptorProto | None) -> Iterator[str]:
    if after is None:
        yield f"message {before.name} is gone"
        return
    fields = {field.number: field for field in after.field}
    for field in before.field:
        name = f"{before.name}.{field.name} = {field.number}"
        now = fields.get(field.number)
        if now is None:
            yield f"{name} is gone"
        elif _meaning(before, field) != _meaning(after, now):
            yield f"{name} has become {_meaning(after, now)}"
    taken = {n for each in before.reserved_range for n in range(each.start, each.end)}
    kept = {n for each in after.reserved_range for n in range(each.start, each.end)}
    for number in sorted(taken - kept - fields.keys()):
        yield f"{before.name}: {number} is not reserved any more"


def _meaning(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[object, ...]:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return field.name, field.type, field.label, field.type_name, oneof


def _enum_breaks(before: EnumDescriptorProto, after: EnumDescriptorProto | None) -> Iterator[str]:
    now = {} if after is None else {value.number: value.name for value in after.value}
    for value in before.value:
        if now.get(value.number) != value.name:
            yield f"enum {before.name}: {value.name} = {value.number} is gone or renamed"


def test_nothing_that_was_released_is_removed_renumbered_or_changed() -> None:
    files = current()

    assert [each for old in released() for each in breaks(old, files.get(old.name))] == []


def _field(file: FileDescriptorProto, message: str, name: str) -> FieldDescriptorProto:
    (found,) = (m for m in file.message_type if m.name == message)
    (field,) = (f for f in found.field if f.name == name)
    return field


def _remove(file: FileDescriptorProto) -> None:
    (message,) = (m for m in file.message_type if m.name == "Frame")
    del message.field[3]


CHANGES: dict[str, tuple[Callable[[FileDescriptorProto], object], str]] = {
    "removed": (_remove, "Frame.seq = 4 is gone"),
    "renumbered": (
        lambda file: setattr(_field(file, "Frame", "seq"), "number", 99),
        "Frame.seq = 4 is gone",
    ),
    "of another type": (
        lambda file: setattr(
            _field(file, "Frame", "epoch"), "type", FieldDescriptorProto.TYPE_UINT64
        ),
        "Frame.epoch = 3 has become",
    ),
    "renamed": (
        lambda file: setattr(_field(file, "Heartbeat", "head_seq"), "name", "tail_seq"),
        "Heartbeat.head_seq = 1 has become",
    ),
    "repeated": (
        lambda file: setattr(
            _field(file, "Frame", "dp_rank"), "label", FieldDescriptorProto.LABEL_REPEATED
        ),
        "Frame.dp_rank = 2 has become",
    ),
    "an enum's value renamed": (
        lambda file: setattr(file.enum_type[0].value[2], "name", "TIER_PAGE_CACHE"),
        "enum Tier: TIER_HOST = 2",
    ),
    "a message removed": (lambda file: file.message_type.pop(), "is gone"),
    "another package": (lambda file: setattr(file, "package", "v2"), "or its package"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_check_finds_what_breaks_others(change: str) -> None:
    make, told = CHANGES[change]
    file = current()["shepherd_events/v1/kv_events.proto"]
    (before,) = (old for old in released() if old.name == file.name)
    make(file)

    assert any(told in each for each in breaks(before, file))


def test_what_is_added_breaks_nobody() -> None:
    file = current()["shepherd_events/v1/kv_events.proto"]
    (before,) = (old for old in released() if old.name == file.name)
    (frame,) = (m for m in file.message_type if m.name == "Frame")
    frame.field.add(name="more", number=200, type=FieldDescriptorProto.TYPE_BOOL)
    file.message_type.add(name="More")

    assert list(breaks(before, file)) == []


def _kind(name: str) -> type[Message]:
    if name.endswith("_request"):
        return kv_events_pb2.ControlRequest
    return kv_events_pb2.ControlReply if name.endswith("_reply") else kv_events_pb2.Frame


@pytest.mark.parametrize("name", ["stored", "stored_sealed", "turn_completed", "snapshot_reply"])
def test_golden_messages_mean_the_same_to_cpp(name: str) -> None:
    kind = _kind(name)
    golden = bytes.fromhex(str(GOLDEN[name]["hex"]))
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{ROOT / 'proto'}",
            f"--decode={kind.DESCRIPTOR.full_name}",
            "shepherd_events/v1/kv_events.proto",
        ],
        input=golden,
        capture_output=True,
        check=True,
    )
    message = text_format.Parse(told.stdout.decode(), kind())

    assert message.SerializeToString(deterministic=True) == golden


def test_golden_messages_mean_the_same_to_javascript() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    found = subprocess.run(
        [node, str(NODE_READER), str(ROOT / "proto"), str(RELEASED.with_name("kv_frames.json"))],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"NODE_PATH": str(ROOT / "build" / "peers" / "node_modules")},
    )
    if found.returncode == 3:
        pytest.skip("node finds no protobufjs: python scripts/fetch_peers.py")

    assert (found.returncode, found.stdout.split()) == (0, sorted(GOLDEN)), found.stderr
