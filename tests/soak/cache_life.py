"""A random cache's life, and what it held after each of its frames."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from random import Random

from shepherd_events.events import (
    BlockEvent,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    Tier,
    TierState,
)
from shepherd_events.resident_set import ResidentSet

DEVICE_BLOCKS, HOST_BLOCKS = 400, 150
MAX_REMEMBERED = 4_000


class CacheLife:
    """Two tiers; what the device evicts moves to the host or is gone."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._device: OrderedDict[int, int] = OrderedDict()
        """Hash -> parent, 0 for none."""
        self._host: OrderedDict[int, int] = OrderedDict()
        self.truth = ResidentSet()

    def step(self) -> list[BlockEvent]:
        """What one request makes the cache do."""
        chance = self._random.random()
        if chance < 0.002:
            self._host.clear()
            events: list[BlockEvent] = [BlocksCleared(Tier.HOST)]
        elif chance < 0.1 and self._device:
            block = next(reversed(self._device))
            events = [BlocksReused(array("Q", [block]), self._parent(self._device[block]), 1)]
        else:
            events = [self._store(), *self._evict()]
        for event in events:
            self.truth.apply(event)
        return events

    def _store(self) -> BlockEvent:
        hashes = [self._random.getrandbits(64) | 1 for _ in range(self._random.randint(1, 4))]
        extends = self._device and self._random.random() < 0.6
        parent = next(reversed(self._device)) if extends else 0
        previous = parent
        for block in hashes:
            self._device[block], previous = previous, block
        tokens = array("I", (block & 0xFFFF for block in hashes for _ in range(2)))
        start = 1 if parent else 0
        return BlocksStored(array("Q", hashes), self._parent(parent), tokens, start)

    def _evict(self) -> list[BlockEvent]:
        events: list[BlockEvent] = []
        while len(self._device) > DEVICE_BLOCKS:
            block, parent = self._device.popitem(last=False)
            if self._random.random() < 0.5:
                tokens = array("I", [block & 0xFFFF] * 2)
                run = array("Q", [block])
                events.append(BlocksStored(run, self._parent(parent), tokens, 0, Tier.HOST))
                self._host[block] = parent
            events.append(BlocksRemoved(array("Q", [block])))
        while len(self._host) > HOST_BLOCKS:
            block, _ = self._host.popitem(last=False)
            events.append(BlocksRemoved(array("Q", [block]), Tier.HOST))
        return events

    @staticmethod
    def _parent(block: int) -> BlockHash | None:
        return BlockHash(block) if block else None


class Ledger:
    """What was resident after each number of an epoch, and when the number was first used."""

    def __init__(self, epoch: int, now_ns: int) -> None:
        self.epoch = epoch
        self.began_ns = now_ns
        self._digests: OrderedDict[int, tuple[int, object]] = OrderedDict()

    def note(self, seq: int, digest: object, now_ns: int) -> None:
        """The set as it is now belongs to `seq`, until something else does."""
        born_ns = self._digests[seq][0] if seq in self._digests else now_ns
        self._digests[seq] = (born_ns, digest)
        if len(self._digests) > MAX_REMEMBERED:
            self._digests.popitem(last=False)

    def at(self, seq: int) -> object:
        """The digest at a number; None where it is not remembered."""
        if seq <= 1:
            return []
        return self._digests[seq][1] if seq in self._digests else None

    def born_ns(self, seq: int) -> int | None:
        """When a number was first used."""
        return self._digests[seq][0] if seq in self._digests else None


def digest_json(states: tuple[TierState, ...]) -> list[list[int]]:
    """A digest as it crosses between processes."""
    return [[int(state.tier), state.blocks, state.xor] for state in states]


def fingerprint(residents: ResidentSet) -> str:
    """One text for everything that is resident: unlike a digest, nothing can cancel out."""
    everything = {tier.name: sorted(residents.hashes(tier)) for tier in Tier}
    return hashlib.sha256(repr(everything).encode()).hexdigest()
