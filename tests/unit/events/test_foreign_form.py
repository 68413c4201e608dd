"""The bytes of other systems: `tests/golden/foreign_batches.json`, made by their own encoders."""

from __future__ import annotations

import json
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shepherd_events.errors import CodecError
from shepherd_events.events import (
    Attribution,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksReused,
    BlocksStored,
    CacheContext,
    MediaKey,
    MediaSpan,
    Tier,
)
from shepherd_events.foreign.dialects import DIALECTS, SGLANG, VLLM
from shepherd_events.foreign.events import (
    ForeignBatch,
    ForeignCleared,
    ForeignEvent,
    ForeignRemoved,
    ForeignStored,
    Unreadable,
)
from shepherd_events.foreign.mediums import medium_of, tier_of
from shepherd_events.foreign.msgpack_form import decode_batch, encode_batch
from shepherd_events.foreign.outgoing import foreign_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "foreign_batches.json").read_text())
TOKENS = array("I", [1, 2, 3, 70000])
TOP = 2**64 - 1
DIGEST = "ab" * 32
ROOT = ForeignStored((1, TOP), None, TOKENS, 2, "GPU")
WITH_MEDIA = (("adapter", (DIGEST, -1), "dynamo-cache-salt:blue"), ("adapter", b"\x01\x02"))
MEANINGS: dict[str, tuple[ForeignEvent, ...]] = {
    "vllm_root_and_child": (ROOT, ForeignStored((7,), TOP, array("I", [5, 6]), 2, "GPU")),
    "vllm_every_field": (
        ForeignStored(
            (1, TOP),
            None,
            TOKENS,
            2,
            "GPU",
            lora_name="adapter",
            extra_keys=WITH_MEDIA,
            kind="full_attention",
            session_id="anna",
        ),
    ),
    "vllm_bytes": (ForeignStored((bytes(31) + b"\x01",), None, array("I", [1, 2]), 2, "GPU"),),
    "vllm_offloaded": (ForeignStored((1,), None, array("I"), 0, "CPU"),),
    "vllm_window": (
        ForeignStored((1, TOP), None, TOKENS, 2, "GPU", group=1, kind="sliding_window"),
    ),
    "vllm_removed": (
        ForeignRemoved((1,), "GPU"),
        ForeignRemoved((7,), "STORAGE", 1, "REMOTE"),
    ),
    "vllm_cleared": (ForeignCleared(),),
    "vllm_array_form": (
        ForeignStored((1, TOP), None, TOKENS, 2, "GPU", lora_name="adapter", kind="full_attention"),
        ForeignRemoved((1,), "GPU"),
        ForeignCleared(),
    ),
    "sglang_every_kind": (
        ForeignStored(
            (TOP, 5),
            None,
            TOKENS,
            2,
            "GPU",
            lora_name="adapter",
            cache_salt="blue",
            session_id="anna",
        ),
        ForeignRemoved((TOP,), "CPU_PINNED"),
        ForeignCleared(),
    ),
    "sglang_array_form": (
        ForeignStored((TOP, 5), None, TOKENS, 2, "GPU", cache_salt="blue"),
        ForeignRemoved((TOP,)),
        ForeignCleared(),
    ),
    "trtllm_stored": (
        ForeignStored(
            (1, TOP),
            None,
            TOKENS,
            2,
            lora_name="adapter",
            cache_salt="blue",
            extra_keys=((), (("00000000000000ab", 1),)),
        ),
    ),
    "trtllm_removed": (ForeignRemoved((TOP,)),),
    "trtllm_cleared": (ForeignCleared(),),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_other_systems_wrote_is_read_as_they_mean_it(name: str) -> None:
    entry = GOLDEN[name]

    batch = decode_batch(bytes.fromhex(entry["hex"]), DIALECTS[entry["dialect"]])

    assert batch == ForeignBatch(1790000000.5, MEANINGS[name], 3)


def test_every_meaning_has_its_golden_bytes() -> None:
    assert MEANINGS.keys() == GOLDEN.keys()


SPAN = MediaSpan(bytes.fromhex(DIGEST), 5, 1)
CONTEXT = CacheContext("adapter", b"12345678")


@pytest.mark.parametrize(
    ("name", "events"),
    [
        (
            "vllm_root_and_child",
            [
                BlocksStored(array("Q", [1, TOP]), None, TOKENS, 0),
                BlocksStored(array("Q", [7]), BlockHash(TOP), array("I", [5, 6]), 2),
            ],
        ),
        ("vllm_cleared", [BlocksCleared()]),
    ],
)
def test_what_we_write_is_what_vllm_would_have_written_byte_for_byte(
    name: str, events: list[BlockEvent]
) -> None:
    maps = [foreign_of(event, lambda _: None) for event in events]

    assert encode_batch(1790000000.5, [m for m in maps if m], 3).hex() == GOLDEN[name]["hex"]


def test_lora_media_salt_group_and_session_of_a_run_are_told() -> None:
    event = BlocksStored(
        array("Q", [1, 2]),
        None,
        TOKENS,
        0,
        Tier.HOST,
        CONTEXT,
        Attribution("r", "anna"),
        3,
        (MediaKey(1, MediaSpan(b"\xab", 1, 2)),),
    )

    assert foreign_of(event, {b"12345678": "blue"}.get) == {
        "type": "BlockStored",
        "block_hashes": [1, 2],
        "parent_block_hash": None,
        "token_ids": [1, 2, 3, 70000],
        "block_size": 2,
        "lora_id": None,
        "medium": "CPU",
        "lora_name": "adapter",
        "extra_keys": [["adapter", "dynamo-cache-salt:blue"], ["adapter", ["ab", -1]]],
        "group_idx": 3,
        "session_id": "anna",
        "cache_salt": "blue",
    }


def test_blocks_under_an_unknown_salt_and_what_has_no_form_are_not_told() -> None:
    salted = BlocksStored(array("Q", [1]), None, TOKENS, 0, context=CONTEXT)

    assert foreign_of(salted, lambda _: None) is None
    assert foreign_of(BlocksReused(array("Q", [1]), None, 0), lambda _: None) is None
    assert foreign_of(BlocksCleared(Tier.HOST), lambda _: None) is None


@given(st.sampled_from(Tier))
def test_a_tier_keeps_its_nature_on_the_way_out_and_back(tier: Tier) -> None:
    told = tier_of(*medium_of(tier))

    assert told is (Tier.SHARED if tier is Tier.REMOTE else tier)


@pytest.mark.parametrize(
    ("medium", "locality", "tier"),
    [
        (None, None, Tier.DEVICE),
        ("gpu", "LOCAL", Tier.DEVICE),
        ("CPU_TIER2", None, Tier.DISK),
        ("STORAGE", None, Tier.DISK),
        ("STORAGE", "REMOTE", Tier.REMOTE),
        ("MOON", None, None),
    ],
)
def test_mediums_have_tiers(medium: str | None, locality: str | None, tier: Tier | None) -> None:
    assert tier_of(medium, locality) is tier


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x93", msgspec.msgpack.encode({}), msgspec.msgpack.encode([1.0])],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(CodecError):
        decode_batch(payload, VLLM)


STORED = {"type": "BlockStored", "block_hashes": [1], "token_ids": [1, 2], "block_size": 2}


@pytest.mark.parametrize(
    ("event", "may_remove"),
    [
        (STORED | {"block_hashes": ["text"]}, False),
        (STORED | {"block_hashes": [b""]}, False),
        (STORED | {"token_ids": [[1, 2], [2, 3]]}, False),
        (STORED | {"token_ids": [2**32]}, False),
        (STORED | {"block_size": -1}, False),
        (STORED | {"extra_keys": [["a"], ["b"]]}, False),
        (STORED | {"extra_keys": [[{}]]}, False),
        ({"type": "BlockStored"}, False),
        ({"type": "BlockRemoved"}, True),
        ({"type": "BlockRemoved", "block_hashes": [True]}, True),
        ({"type": "BlockRemoved", "block_hashes": [1], "medium": 7}, True),
        ({"type": "BlockPinned"}, True),
        (["BlockRemoved"], True),
        ([], True),
        (7, True),
    ],
)
def test_an_event_that_makes_no_sense_says_whether_it_may_have_removed_something(
    event: Any, may_remove: bool
) -> None:
    batch = decode_batch(encode_batch(1.0, [event, {"type": "AllBlocksCleared"}], 0), VLLM)

    bad, good = batch.events
    assert isinstance(bad, Unreadable)
    assert bad.may_remove is may_remove
    assert good == ForeignCleared()


def test_kinds_that_are_declared_harmless_are_skipped() -> None:
    payload = encode_batch(1.0, [{"type": "Ignored"}, {"type": "BlockPinned"}], 0)

    assert decode_batch(payload, VLLM, frozenset({"BlockPinned"})).events == ()


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from([*STORED, "extra_keys", "medium", "block_mm_infos"]), inner
            )
        ),
        max_leaves=12,
    ).map(
        lambda events: msgspec.msgpack.encode([1.0, [events, STORED | {"extra_keys": events}], 0])
    )
)
def test_nothing_that_arrives_is_more_than_a_refusal(payload: bytes) -> None:
    for dialect in (VLLM, SGLANG):
        with suppress(CodecError):
            decode_batch(payload, dialect)
