"""What is kept gathered is what would be gathered."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shepherd_worker.engine.embedded.layout import Segment
from shepherd_worker.engine.embedded.model.attention import LayerCall
from shepherd_worker.engine.embedded.model.decode_mirror import DecodeMirror
from shepherd_worker.engine.embedded.model.kv_cache import KvGeometry, PagedKvCache
from shepherd_worker.engine.embedded.model.packing import pack

SIZE, LAYERS, HEADS, KV_HEADS, DIM, NUM_BLOCKS = 2, 2, 4, 2, 4, 40


def made_cache() -> PagedKvCache:
    geometry = KvGeometry(LAYERS, KV_HEADS, DIM)
    device = torch.device("cpu")
    return PagedKvCache(geometry, NUM_BLOCKS, SIZE, dtype=torch.float32, device=device)


@dataclass
class Running:
    """A sequence of which all but the newest token are in the cache."""

    block_ids: list[int]
    start: int
    waits: bool = field(default=False)


class MirrorMachine(RuleBasedStateMachine):
    """Sequences come, decode together or not, end, and leave blocks that others fill again."""

    @initialize(seed=st.integers(0, 1000), max_bytes=st.sampled_from([1 << 30, 3000]))
    def begin(self, seed: int, max_bytes: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.cache = made_cache()
        self.mirror = DecodeMirror(self.cache, max_bytes=max_bytes)
        self.free = list(range(NUM_BLOCKS))
        self.running: list[Running] = []
        self.added = 0

    def take(self, count: int) -> list[int]:
        """Blocks that somebody may have left something in, the last freed first."""
        return [self.free.pop() for _ in range(count)]

    @precondition(lambda self: len(self.free) > 20)
    @rule(length=st.integers(1, 9))
    def arrive_with_imported_blocks(self, length: int) -> None:
        blocks = self.take(length // SIZE + 1)
        records = [
            torch.randn(self.cache.storage[0].shape, generator=self.generator) for _ in blocks
        ]
        self.cache.write_blocks(blocks, [memoryview(r.numpy()).cast("B") for r in records])
        self.running.append(Running(blocks, length))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.running))
        self.running.remove(gone)
        self.free += gone.block_ids

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        paused = data.draw(st.sampled_from(self.running))
        paused.waits = not paused.waits

    @precondition(lambda self: len(self.free) > len(self.running) * 3)
    @rule(count=st.integers(1, 12))
    def decode(self, count: int) -> None:
        for _ in range(count):
            if len(self.free) > len(self.running):
                self.decode_once()

    def decode_once(self) -> None:
        going = [each for each in self.running if not each.waits]
        new: list[int] = []
        for each in going:
            if each.start == len(each.block_ids) * SIZE:
                new += self.take(1)
                each.block_ids.append(new[-1])
        if not going:
            return
        self.cache.clear(torch.tensor(new, dtype=torch.long))
        segments = [Segment(array("I", [1]), each.start, each.block_ids, 1) for each in going]
        mirrored = pack(segments, self.cache, self.mirror, new).attention
        self.added += sum(group.newest is not None for group in mirrored.decodes)
        gathered = pack(segments, self.cache, DecodeMirror(self.cache)).attention
        for layer in range(LAYERS):
            states = torch.randn(3, len(going), HEADS, DIM, generator=self.generator)
            key, value = states[1, :, :KV_HEADS], states[2, :, :KV_HEADS]
            call = LayerCall(layer, states[0], key, value, None, None, frozenset())
            expected = gathered.attend(call)
            torch.testing.assert_close(mirrored.attend(call), expected)
        for each in going:
            each.start += 1


MirrorMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMirror = MirrorMachine.TestCase


def steps(lengths: list[int], count: int, *, max_bytes: int = 1 << 30) -> list[str]:
    """What is done for each of some steps in which the same sequences decode."""
    cache = made_cache()
    mirror, width = DecodeMirror(cache, max_bytes=max_bytes), NUM_BLOCKS // len(lengths)
    done = []
    for step in range(count):
        segments = [
            Segment(array("I", [1]), length + step, list(range(i * width, (i + 1) * width)), 1)
            for i, length in enumerate(lengths)
        ]
        (group,) = pack(segments, cache, mirror).attention.decodes
        done.append("add" if group.newest is not None else "fill" if group.extent else "gather")
    return done


def test_the_second_step_fills_the_mirror_and_the_next_ones_add_to_it() -> None:
    assert steps([3, 3], 5) == ["gather", "fill", "add", "add", "add"]


def test_a_sequence_that_outgrows_its_room_is_gathered_once_more() -> None:
    done = steps([2], 24)

    assert done.count("fill") == 3
    assert done[:2] == ["gather", "fill"]
    assert set(done[2:]) == {"add", "fill"}


def test_more_than_may_be_kept_is_gathered_each_time() -> None:
    assert steps([3, 3], 4, max_bytes=100) == ["gather"] * 4


def after_three_steps(cache: PagedKvCache, mirror: DecodeMirror) -> Segment:
    """The next token of a sequence that is mirrored."""
    for start in (2, 3, 4):
        pack([Segment(array("I", [1]), start, [0, 1, 2], 1)], cache, mirror)
    assert mirror.extents
    return Segment(array("I", [1]), 5, [0, 1, 2], 1)


def test_blocks_that_were_written_from_outside_are_gathered_again() -> None:
    cache = made_cache()
    mirror = DecodeMirror(cache)
    segment = after_three_steps(cache, mirror)
    cache.write_blocks([0], [bytes(cache.storage[0].nbytes)])
    (group,) = pack([segment], cache, mirror).attention.decodes

    assert group.extent is None


def test_blocks_that_somebody_else_has_now_are_gathered_again() -> None:
    cache = made_cache()
    mirror = DecodeMirror(cache)
    segment = after_three_steps(cache, mirror)
    (group,) = pack([segment], cache, mirror, new_block_ids=[1]).attention.decodes

    assert group.extent is None
