"""What a foreign cache says becomes what ours would say; never more than is true."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shepherd_events.block_hash import block_hash, block_hashes, root_hash, salt_id
from shepherd_events.codec import decode_frame, encode_frame
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheContext,
    Frame,
    MediaKey,
    MediaSpan,
    StreamId,
    Tier,
)
from shepherd_events.foreign import translator as translators
from shepherd_events.foreign.events import (
    ForeignCleared,
    ForeignEvent,
    ForeignHash,
    ForeignRemoved,
    ForeignStored,
    Unreadable,
)
from shepherd_events.foreign.translator import Translator
from shepherd_events.resident_set import ResidentSet

TOKENS = array("I", [10, 11, 12, 13, 14, 15])
ROOT = root_hash(b"model")
OURS = array("Q", block_hashes(ROOT, TOKENS, 2))


def run(*names: ForeignHash, parent: ForeignHash | None = None, at: int = 0) -> ForeignStored:
    tokens = TOKENS[2 * at : 2 * (at + len(names))]
    return ForeignStored(names, parent, tokens, 2, "GPU")


def copied(*names: ForeignHash) -> ForeignStored:
    return ForeignStored(names, None, array("I"), 0, "CPU")


def fresh(**options: int) -> Translator:
    return Translator("model", 2, **options)


def told(*events: ForeignEvent, **options: int) -> list[BlockEvent]:
    return fresh(**options).translate(events)


def test_a_chain_has_the_hashes_that_its_tokens_have_anywhere() -> None:
    assert told(run(1, 2), run(b"\x01" * 32, parent=2, at=2)) == [
        BlocksStored(OURS[:2], None, TOKENS[:4], 0),
        BlocksStored(OURS[2:], BlockHash(OURS[1]), TOKENS[4:], 2),
    ]


def test_lora_salt_and_session_are_those_of_the_chain() -> None:
    first = replace(run(1), lora_name="a", cache_salt="blue", session_id="anna")
    (one, two) = told(first, run(2, parent=1, at=1))

    root = root_hash(b"model", lora_name="a", cache_salt="blue")
    context = CacheContext("a", salt_id("blue"))
    hashes = array("Q", block_hashes(root, TOKENS[:4], 2))
    assert one == BlocksStored(
        hashes[:1], None, TOKENS[:2], 0, context=context, origin=Attribution("", "anna")
    )
    assert two == BlocksStored(hashes[1:], BlockHash(hashes[0]), TOKENS[2:4], 1, context=context)


@pytest.mark.parametrize("salt", ["blue", "dynamo-cache-salt:blue"])
def test_a_salt_among_vllm_s_extra_keys_is_the_same_salt(salt: str) -> None:
    hidden = replace(run(1), lora_name="a", extra_keys=(("a", salt),))

    assert told(hidden) == told(replace(run(1), lora_name="a", cache_salt="blue"))


def test_media_enter_the_hash_where_they_lie() -> None:
    digest = "ab" * 32
    pictured = replace(run(1, 2), extra_keys=((), ((digest, -1), b"embedding")))

    (event,) = told(pictured)

    assert isinstance(event, BlocksStored)
    spans = (
        MediaSpan(bytes.fromhex(digest), 1, 3),
        MediaSpan(event.media[1].span.digest, 2, 2, "embedding"),
    )
    assert event.media == (MediaKey(1, spans[0]), MediaKey(1, spans[1]))
    assert event.block_hashes[0] == OURS[0]
    assert event.block_hashes[1] == block_hash(BlockHash(OURS[0]), TOKENS[2:4], spans)
    assert event.block_hashes[1] != OURS[1]


@pytest.mark.parametrize("one", ["a", "b" * 64, ("a", 0), ("a", 1), b"a", 7])
def test_blocks_with_different_keys_have_different_hashes(one: object) -> None:
    keys = ["a", "b" * 64, ("a", 0), ("a", 1), b"a", 7, None]
    hashes = [
        told(run(1), replace(run(2, parent=1, at=1), extra_keys=((key,),) if key else ()))[1]
        for key in keys
    ]

    assert keys.count(one) == 1
    found = {event.block_hashes[0] for event in hashes if isinstance(event, BlocksStored)}
    assert len(found) == len(keys) - 1, "a text alone and a text at the start mean the same"


def test_a_child_of_an_unknown_parent_is_counted_and_not_told() -> None:
    translator = fresh()

    assert translator.translate([run(2, 3, parent=1, at=1)]) == []
    assert translator.counts.unknown_parents == 2
    assert translator.translate([ForeignRemoved((2, 3), "GPU")]) == []
    assert translator.counts.unknown_removals == 2


def test_a_copy_on_another_tier_is_told_by_its_hash_and_keeps_the_block() -> None:
    translator = fresh()
    translator.translate([run(1, 2)])

    assert translator.translate([copied(1, 9), ForeignRemoved((1,), "GPU")]) == [
        BlocksStored(OURS[:1], None, array("I"), 0, Tier.HOST),
        BlocksRemoved(OURS[:1]),
    ]
    assert translator.counts.unknown_parents == 1
    assert translator.translate([ForeignRemoved((1,), "CPU")]) == [
        BlocksRemoved(OURS[:1], Tier.HOST)
    ]


def test_a_block_that_left_is_remembered_for_its_children_and_copies() -> None:
    translator = fresh()
    translator.translate([run(1), ForeignRemoved((1,), "GPU")])

    assert translator.num_held == 0
    assert translator.translate([run(2, parent=1, at=1), copied(1)]) == [
        BlocksStored(OURS[1:2], BlockHash(OURS[0]), TOKENS[2:4], 1),
        BlocksStored(OURS[:1], None, array("I"), 0, Tier.HOST),
    ]


def test_what_is_held_already_is_not_told_again() -> None:
    assert told(run(1), run(1)) == [BlocksStored(OURS[:1], None, TOKENS[:2], 0)]


def test_a_name_for_two_blocks_and_two_names_for_one_are_left_out() -> None:
    translator = fresh()
    translator.translate([run(1)])

    assert translator.translate([run(1, at=1), run(7)]) == []
    assert translator.counts.ambiguous == 2
    assert translator.translate([ForeignRemoved((7,), "GPU")]) == []
    assert translator.translate([ForeignRemoved((1,), "GPU"), run(7)]) == [
        BlocksRemoved(OURS[:1]),
        BlocksStored(OURS[:1], None, TOKENS[:2], 0),
    ]


@pytest.mark.parametrize(
    ("event", "count"),
    [
        (replace(run(1), medium="MOON"), "unknown_mediums"),
        (replace(run(1), kind="mamba", group=1), "other_attention"),
        (replace(run(1), block_size=4), "misfits"),
        (replace(run(1), token_ids=array("I", [1, 2, 3])), "misfits"),
    ],
)
def test_what_is_not_understood_is_left_out_and_counted(event: ForeignStored, count: str) -> None:
    translator = fresh()

    assert translator.translate([event]) == []
    assert getattr(translator.counts, count) == 1
    gone = ForeignRemoved((1,), event.medium, event.group)
    assert translator.translate([gone]) == []


def test_groups_of_whole_attention_keep_apart() -> None:
    other = replace(run(1), group=1, kind="full_attention")
    translator = fresh()

    assert translator.translate([run(1), other, ForeignRemoved((1,), "GPU")]) == [
        BlocksStored(OURS[:1], None, TOKENS[:2], 0),
        BlocksStored(OURS[:1], None, TOKENS[:2], 0, group=1),
        BlocksRemoved(OURS[:1]),
    ]
    assert translator.num_held == 1


def test_no_more_blocks_are_held_than_the_limit_allows() -> None:
    translator = fresh(max_blocks=1)

    assert translator.translate([run(1, 2, 3), copied(1)]) == [
        BlocksStored(OURS[:1], None, TOKENS[:2], 0),
        BlocksStored(OURS[:1], None, array("I"), 0, Tier.HOST),
    ]
    assert (translator.counts.over_limit, translator.counts.unknown_parents) == (1, 1)
    assert translator.num_held == 1


def test_names_of_blocks_that_left_are_forgotten_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translators, "MAX_ABSENT", 1)
    translator = fresh()
    translator.translate([run(1, 2), ForeignRemoved((1, 2), "GPU")])

    assert translator.translate([run(8, parent=1, at=2)]) == []
    assert len(translator._blocks) == len(translator._names) == 1


@pytest.mark.parametrize(
    ("event", "losses"),
    [
        (ForeignCleared(), 0),
        (Unreadable("x", may_remove=True), 1),
    ],
)
def test_after_a_clearing_or_a_loss_nothing_is_held(event: ForeignEvent, losses: int) -> None:
    translator = fresh()
    translator.translate([run(1)])

    assert translator.translate([event]) == [BlocksCleared()]
    assert translator.translate([ForeignRemoved((1,), "GPU"), run(2, parent=1, at=1)]) == []
    assert (translator.num_held, translator.counts.losses) == (0, losses)


def test_an_unreadable_store_hides_and_harms_nothing() -> None:
    assert told(run(1), Unreadable("x", may_remove=False)) == told(run(1))


class TranslationMachine(RuleBasedStateMachine):
    """A cache that names its blocks as it likes, and what is told of it."""

    def __init__(self) -> None:
        super().__init__()
        self.translator = fresh(max_blocks=12)
        self.residents = ResidentSet()
        self.truth: dict[Tier, set[tuple[int, ...]]] = {Tier.DEVICE: set(), Tier.HOST: set()}
        """Chains of tokens whose last block is held."""

    def tell(self, event: ForeignEvent) -> None:
        for each in self.translator.translate([event]):
            frame = Frame(StreamId("w"), 1, 1, 1, BlockBatch((each,)))
            body = decode_frame(encode_frame(frame)).body
            assert isinstance(body, BlockBatch)
            self.residents.apply(body.events[0])

    @staticmethod
    def name(chain: tuple[int, ...]) -> bytes:
        return repr(chain).encode()

    chains = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple)

    @rule(chain=chains, start=st.integers(0, 3), tier=st.sampled_from([Tier.DEVICE, Tier.HOST]))
    def store(self, chain: tuple[int, ...], start: int, tier: Tier) -> None:
        start = min(start, len(chain) - 1)
        parts = [chain[: end + 1] for end in range(start, len(chain))]
        tokens = array("I", [t for part in chain[start:] for t in (part, part)])
        parent = self.name(chain[:start]) if start else None
        medium = "GPU" if tier is Tier.DEVICE else "CPU"
        self.tell(ForeignStored(tuple(map(self.name, parts)), parent, tokens, 2, medium))
        self.truth[tier] |= set(parts)

    @rule(chain=chains)
    def copy(self, chain: tuple[int, ...]) -> None:
        if chain in self.truth[Tier.DEVICE]:
            self.tell(copied(self.name(chain)))
            self.truth[Tier.HOST].add(chain)

    @rule(chain=chains, tier=st.sampled_from([Tier.DEVICE, Tier.HOST]))
    def remove(self, chain: tuple[int, ...], tier: Tier) -> None:
        self.truth[tier].discard(chain)
        self.tell(ForeignRemoved((self.name(chain),), "GPU" if tier is Tier.DEVICE else "CPU"))

    @rule(loss=st.booleans())
    def clear(self, loss: bool) -> None:
        if loss:
            self.tell(Unreadable("lost", may_remove=True))
        else:
            self.truth = {tier: set() for tier in self.truth}
            self.tell(ForeignCleared())

    @invariant()
    def nothing_false_is_told(self) -> None:
        for tier, chains in self.truth.items():
            true = {self.ours(chain) for chain in chains}
            assert self.residents.hashes(tier) <= true

    @invariant()
    def the_translator_holds_what_it_told(self) -> None:
        held = {tier: self.residents.hashes(tier) for tier in self.truth}
        assert self.translator.num_held == len(held[Tier.DEVICE] | held[Tier.HOST]) <= 12
        assert self.translator._names.keys() == {
            block.ours for block in self.translator._blocks.values()
        }

    def ours(self, chain: tuple[int, ...]) -> int:
        tokens = array("I", [t for part in chain for t in (part, part)])
        return [*block_hashes(ROOT, tokens, 2)][-1]


TestTranslation = TranslationMachine.TestCase
TestTranslation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
