"""TensorRT-LLM's cache events become ours: hashes, tiers, ranks, losses, ends of sequences."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_replica import CacheReplica
from shepherd_events.block_hash import block_hashes, root_hash, salt_id
from shepherd_events.events import (
    Attribution,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Tier,
)
from shepherd_worker.engine.protocol import CacheEvent, SequenceFinished
from shepherd_worker.engine.trtllm.kv_events import (
    EventReader,
    KvEvent,
    Lost,
    Moved,
    Removed,
    Stored,
    StoredBlock,
    name_of,
)
from shepherd_worker.engine.trtllm.ranks import Ledgers
from shepherd_worker.engine.trtllm.tracks import Track
from shepherd_worker.request import FinishReason

MODEL = b"\x07" * 32
ROOT = root_hash(MODEL)
SIZE = 4
EXAMPLES = json.loads((Path(__file__).parents[2] / "golden" / "trtllm_api.json").read_text())[
    "kv_event_examples"
]


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each["event"] for each in EXAMPLES if each["name"] == name)
    return found


def numbered(*names: str) -> list[dict[str, Any]]:
    return [example(name) | {"event_id": number} for number, name in enumerate(names)]


def test_the_documented_events_are_read() -> None:
    names = ["created", "stored_root_two_blocks", "stored_child_partial", "stored_v2_hex"]
    names += ["updated_offload", "updated_onboard", "removed", "empty"]
    reader = EventReader()
    read = [event for _, event in reader.read(numbered(*names[:-1]))]
    first, partial, hexadecimal, away, back, removed = read

    assert isinstance(first, Stored)
    assert [list(block.token_ids) for block in first.blocks] == [
        [101, 102, 103, 104],
        [105, 106, 107, 108],
    ]
    assert isinstance(partial, Stored)
    assert partial.parent == first.blocks[1].name
    assert isinstance(hexadecimal, Stored)
    assert str(hexadecimal.blocks[0].name).startswith("9f86d081")
    assert isinstance(away, Moved)
    assert isinstance(back, Moved)
    assert (away.old_level, away.new_level, back.new_level) == (0, 1, 0)
    assert isinstance(removed, Removed)
    assert removed.names == (first.blocks[0].name, first.blocks[1].name)
    assert [*reader.read([example("empty")])] == []
    assert reader.num_unknown == 0


def test_salt_and_media_are_told_where_the_version_tells_them() -> None:
    def block(name: str) -> StoredBlock:
        ((_, stored),) = EventReader().read([example(name) | {"event_id": 0}])
        assert isinstance(stored, Stored)
        return stored.blocks[0]

    assert (block("stored_mm_and_salt").cache_salt, block("stored_mm_and_salt").has_media) == (
        *("tenant-a", True),
    )
    assert block("stored_root_two_blocks").cache_salt == ""
    assert block("stored_pre_1_3").cache_salt is None


@pytest.mark.parametrize(
    ("hashed", "name"),
    [(5, 5), (-1, 2**64 - 1), ("0xAB", "ab"), ("ab", "ab")],
)
def test_a_hash_has_one_name_in_all_its_forms(hashed: Any, name: Any) -> None:
    assert name_of(hashed) == name


def test_numbers_that_are_missing_or_begin_anew_are_losses_of_their_rank() -> None:
    def event(number: int, rank: int = 0) -> dict[str, Any]:
        return example("removed") | {"event_id": number, "attention_dp_rank": rank}

    events = [event(0), event(0, 1), event(1), event(5), event(1, 1), event(6), event(0)]
    losses = [each for each in EventReader().read(events) if isinstance(each[1], Lost)]

    assert losses == [(0, Lost(3)), (0, Lost(0))]
    assert next(EventReader().read([event(4)])) == (0, Lost(4))


def test_only_the_largest_window_is_told() -> None:
    reader = EventReader()
    events = [
        example("created") | {"event_id": 0, "window_size": 512},
        example("created") | {"event_id": 1, "window_size": 4096},
        example("stored_root_two_blocks") | {"event_id": 2, "window_size": 512},
        example("stored_root_two_blocks") | {"event_id": 3, "window_size": 4096},
    ]

    assert len([*reader.read(events)]) == 1


def test_an_event_that_cannot_be_read_is_counted_and_the_next_is_read() -> None:
    reader = EventReader()
    broken = {"event_id": 0, "window_size": 1, "data": {"type": "stored", "blocks": []}}
    unknown = {"event_id": 1, "window_size": 1, "data": {"type": "defragmented"}}
    priority = example("updated_offload")["data"] | {"cache_level": None, "priority": {}}
    events = [broken, unknown, example("removed") | {"event_id": 2}]
    events.append({"event_id": 3, "window_size": 4096, "data": priority})

    assert [type(event) for _, event in reader.read(events)] == [Removed]
    assert reader.num_unknown == 2


def stored(
    tokens: Iterable[int], names: Iterable[Any], parent: Any = None, salt: str | None = ""
) -> Stored:
    ids = array("I", tokens)
    runs = [ids[at : at + SIZE] for at in range(0, len(ids), SIZE)]
    return Stored(
        parent,
        tuple(
            StoredBlock(name, run, salt, has_media=False, level=0)
            for name, run in zip(names, runs, strict=True)
        ),
    )


def track(tokens: Iterable[int], request: str = "r", salt: str = "", lora: str = "") -> Track:
    return Track(
        context=CacheContext(lora, salt_id(salt)),
        root=root_hash(MODEL, lora_name=lora, cache_salt=salt),
        token_ids=array("I", tokens),
        origin=Attribution(request),
        started_unix_ns=1,
    )


def ledger_of(*tracks: Track) -> Ledgers:
    ledger = Ledgers(SIZE, MODEL)
    for each in tracks:
        ledger.tracks.add(each)
    return ledger


def drained(ledgers: Ledgers, rank: int = 0) -> tuple[CacheEvent, ...]:
    return dict(ledgers.drain()).get(rank, ())


def test_blocks_have_canonical_hashes_and_the_request_that_fills_them() -> None:
    ledger = ledger_of(track(range(9), "mine"))
    ledger.apply(0, stored(range(9), ["a", "b", "tail"]))
    (event,) = drained(ledger)

    assert isinstance(event, BlocksStored)
    assert list(event.block_hashes) == list(block_hashes(ROOT, array("I", range(9)), SIZE))
    assert (event.origin, event.parent_hash, event.start_block) == (Attribution("mine"), None, 0)
    assert list(event.token_ids) == list(range(8))

    ledger.apply(0, Removed(("tail",)))
    assert drained(ledger) == ()


@pytest.mark.parametrize("told", [True, False])
def test_tenants_and_adapters_are_told_apart_also_where_events_do_not_say(told: bool) -> None:
    requests = [track(range(4), salt, salt) for salt in ("one", "two")]
    ledger = ledger_of(*requests, track(range(4), "lora", lora="tuned"))
    for name, salt in (("a", "one"), ("b", "two"), ("c", "")):
        ledger.apply(0, stored(range(4), [name], salt=salt if told else None))
    events = [event for event in drained(ledger) if isinstance(event, BlocksStored)]

    assert [event.origin and event.origin.request_id for event in events] == ["one", "two", "lora"]
    assert len({event.block_hashes[0] for event in events}) == 3
    assert events[2].context.lora_name == "tuned"


def test_the_engine_may_be_ahead_of_what_we_were_told() -> None:
    """A block is full before its last tokens have reached us: it is the request's all the same."""
    mine, other = track(range(6), "mine"), track([9, 9], "other")
    ledger = ledger_of(mine, other)
    ledger.apply(0, stored([0, 1, 2, 3, 4, 5, 70, 71], ["a", "b"]))
    ledger.apply(0, stored([9, 9, 80, 81], ["c"]))
    ledger.apply(0, stored([5, 5, 5, 5], ["d"], parent="a"))
    origins = [
        (event.origin and event.origin.request_id, len(event.block_hashes))
        for event in drained(ledger)
        if isinstance(event, BlocksStored)
    ]

    assert origins == [("mine", 2), ("other", 1), (None, 1)]


def test_blocks_that_nobody_asked_for_are_told_without_an_origin() -> None:
    ledger = ledger_of()
    ledger.apply(0, stored(range(4), ["a"], salt="tenant"))
    (event,) = drained(ledger)

    assert isinstance(event, BlocksStored)
    assert (event.origin, event.context) == (None, CacheContext("", salt_id("tenant")))


def test_a_parent_that_goes_takes_its_children_along_leaves_first() -> None:
    ledger = ledger_of()
    ledger.apply(0, stored(range(12), ["a", "b", "c"]))
    drained(ledger)
    ledger.apply(0, Removed(("a",)))
    (event,) = drained(ledger)

    hashes = list(block_hashes(ROOT, array("I", range(12)), SIZE))
    assert isinstance(event, BlocksRemoved)
    assert list(event.block_hashes) == hashes[::-1]
    ledger.apply(0, Removed(("c", "b")))
    assert drained(ledger) == ()
    assert ledger.counts.evicted == 3


def test_offloading_is_a_move_between_tiers_and_no_removal() -> None:
    ledger = ledger_of()
    ledger.apply(0, stored(range(4), ["a"]))
    drained(ledger)
    ledger.apply(0, Moved("a", 0, 1))
    on_host, off_device = drained(ledger)
    assert ledger.num_resident == {Tier.DEVICE: 0, Tier.HOST: 1}
    ledger.apply(0, Moved("a", 1, 0))
    ledger.apply(0, Removed(("a",)))
    *_, gone = drained(ledger)

    assert isinstance(on_host, BlocksStored)
    assert isinstance(off_device, BlocksRemoved)
    assert (on_host.tier, off_device.tier) == (Tier.HOST, Tier.DEVICE)
    assert isinstance(gone, BlocksRemoved)
    assert gone.tier is Tier.DEVICE
    counts = ledger.counts
    assert (counts.offloaded, counts.onboarded, counts.evicted) == (1, 1, 1)


def test_an_end_waits_for_its_blocks_and_goes_before_their_removal() -> None:
    mine = track(range(8), "mine")
    ledger = ledger_of(mine)
    ledger.apply(0, stored(range(8), ["a", "b"]))
    ledger.tracks.extend(mine, [8, 9, 10, 11, 12])
    ledger.finish(mine, FinishReason.LENGTH, 0, deadline=10.0)
    ledger.settle(now=0.0)
    assert [type(event) for event in drained(ledger)] == [BlocksStored]

    ledger.apply(0, stored([8, 9, 10, 11], ["c"], parent="b"))
    ledger.settle(now=0.0)
    _, end = drained(ledger)
    assert isinstance(end, SequenceFinished)
    assert (end.num_full_blocks, list(end.tail_token_ids), end.generated_tokens) == (3, [12], 5)


def test_a_removal_tells_the_end_of_its_sequence_first_with_the_rest_as_its_tail() -> None:
    mine = track(range(9), "mine")
    ledger = ledger_of(mine)
    ledger.apply(0, stored(range(4), ["a"]))
    ledger.finish(mine, FinishReason.EOS, 0, deadline=10.0)
    drained(ledger)
    assert ledger.unfinished_owners(0, ["a"]) == []
    ledger.apply(0, Removed(("a",)))
    end, removed = drained(ledger)

    assert isinstance(end, SequenceFinished)
    assert (end.num_full_blocks, list(end.tail_token_ids)) == (1, [4, 5, 6, 7, 8])
    assert isinstance(removed, BlocksRemoved)


def test_an_end_whose_blocks_never_come_is_told_at_its_deadline_with_all_its_text() -> None:
    mine = track(range(9), "mine")
    ledger = ledger_of(mine)
    ledger.finish(mine, FinishReason.LENGTH, 0, deadline=10.0)
    ledger.settle(now=9.9)
    assert drained(ledger) == ()
    ledger.settle(now=10.0)
    (end,) = drained(ledger)

    assert isinstance(end, SequenceFinished)
    assert (end.last_block_hash, list(end.tail_token_ids)) == (None, list(range(9)))
    assert ledger.counts.late == 1
    assert len(ledger.tracks) == 0


def test_a_request_that_has_not_ended_owns_the_blocks_it_will_fill() -> None:
    mine = track(range(8), "mine")
    ledger = ledger_of(mine)
    ledger.apply(0, stored(range(8), ["a", "b"]))

    assert ledger.unfinished_owners(0, ["b"]) == [mine]
    mine.shares_only = True
    assert ledger.unfinished_owners(0, ["b"]) == []


def test_a_hit_is_told_as_far_as_the_blocks_are_known() -> None:
    mine = track(range(12), "mine")
    ledger = ledger_of(mine)
    ledger.apply(0, stored(range(8), ["a", "b"]))
    ledger.hit(mine, num_cached=11)
    _, reused = drained(ledger)

    assert isinstance(reused, BlocksReused)
    assert len(reused.block_hashes) == 2


def test_a_loss_takes_everything_back_and_proof_tells_it_again() -> None:
    mine = track(range(12), "mine")
    ledger = ledger_of(mine)
    ledger.apply(0, stored(range(12), ["a", "b", "c"]))
    drained(ledger)
    ledger.apply(0, Lost(7))
    (gone,) = drained(ledger)
    hashes = list(block_hashes(ROOT, array("I", range(12)), SIZE))
    assert isinstance(gone, BlocksRemoved)
    assert list(gone.block_hashes) == hashes[::-1]
    assert ledger.num_resident[Tier.DEVICE] == 0

    ledger.apply(0, stored([50, 51, 52, 53], ["d"], parent="b"))  # so b and a are still there
    again, new = (event for event in drained(ledger) if isinstance(event, BlocksStored))
    assert list(again.block_hashes) == hashes[:2]
    assert (len(new.block_hashes), new.start_block) == (1, 2)

    ledger.hit(mine, num_cached=12)  # and so is c
    assert [type(event) for event in drained(ledger)] == [BlocksStored, BlocksReused]
    assert (ledger.counts.losses, ledger.counts.lost_events) == (1, 7)


def test_an_engine_that_began_anew_holds_nothing_of_before() -> None:
    ledger = ledger_of()
    ledger.apply(0, stored(range(8), ["a", "b"]))
    ledger.apply(0, Lost(0))
    drained(ledger)
    ledger.apply(0, stored([9, 9, 9, 9], ["c"], parent="b"))

    assert drained(ledger) == ()
    assert ledger.counts.unmapped == 1


class EngineAndReader(RuleBasedStateMachine):
    """A radix tree that tells its changes, some of which get lost, and a reader of the ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledgers(SIZE, MODEL)
        self.replica = CacheReplica(ROOT, SIZE)
        self.tree: dict[tuple[int, ...], int] = {}
        self.deaf = False
        self.lost = 0
        self.running: list[Track] = []
        self.texts: list[list[int]] = []
        self.now = 0.0

    def tell(self, event: KvEvent) -> None:
        if self.deaf:
            self.lost += 1
            return
        if self.lost:
            self.ledger.apply(0, Lost(self.lost))
            self.lost = 0
        self.ledger.apply(0, event)

    @rule(path=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def store(self, path: list[int]) -> None:
        for depth in range(1, len(path) + 1):
            here = tuple(path[:depth])
            if here not in self.tree:
                self.tree[here] = hash(here) % 2**64
                parent = self.tree.get(here[:-1])
                self.tell(stored([here[-1]] * SIZE, [self.tree[here]], parent=parent))

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        leaves = [p for p in self.tree if not any(q[:-1] == p for q in self.tree)]
        if leaves:
            gone = data.draw(st.sampled_from(sorted(leaves)))
            self.tell(Removed((self.tree.pop(gone),)))

    @rule(path=st.lists(st.integers(0, 2), min_size=1, max_size=4), rest=st.integers(0, 3))
    def ask(self, path: list[int], rest: int) -> None:
        tokens = [token for token in path for _ in range(SIZE)] + [0] * rest
        self.running.append(track(tokens))
        self.ledger.tracks.add(self.running[-1])

    @rule(data=st.data(), output=st.lists(st.integers(0, 2), max_size=5), hit=st.integers(0, 9))
    def answer_and_end(self, data: st.DataObject, output: list[int], hit: int) -> None:
        if self.running:
            ending = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            self.ledger.tracks.extend(ending, output)
            self.ledger.hit(ending, hit)
            self.ledger.finish(ending, FinishReason.LENGTH, hit, deadline=self.now + 2)
            self.texts.append(list(ending.token_ids))

    @rule()
    def let_time_pass(self) -> None:
        self.now += 1
        self.ledger.settle(self.now)

    @rule()
    def fall_behind(self) -> None:
        self.deaf = True

    @rule()
    def catch_up(self) -> None:
        self.deaf = False

    @invariant()
    def readers_believe_in_nothing_that_is_not_there(self) -> None:
        self.read()
        if not self.deaf and not self.lost:
            truth = {self.hash_of(path) for path in self.tree}

            assert set(self.replica.resident) <= truth
            assert len(self.replica.resident) == self.ledger.num_resident[Tier.DEVICE]
            if not self.ledger.counts.losses:
                assert set(self.replica.resident) == truth

    @invariant()
    def every_end_has_its_text(self) -> None:
        self.read()
        told = sorted(map(self.replica.text, self.replica.finished))

        assert all(text in self.texts for text in told)
        if self.now and not self.ledger.tracks:
            assert told == sorted(self.texts)

    def read(self) -> None:
        self.replica.apply(drained(self.ledger))

    def hash_of(self, path: tuple[int, ...]) -> int:
        tokens = array("I", [token for token in path for _ in range(SIZE)])
        return [*block_hashes(ROOT, tokens, SIZE)][-1]


TestEngineAndReader = EngineAndReader.TestCase
TestEngineAndReader.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
