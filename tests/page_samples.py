"""Conversations in every standing that the page shows, through the real consumer."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from memory_doors import House
from shepherd_events.block_hash import block_hashes, root_hash
from shepherd_events.events import BlockBatch, BlockHash, BlocksRemoved, BlocksStored, Tier
from shepherd_memory.fake import spell

BEGAN_NS = 1_794_999_000_000_000_000
LISBON = [
    ("user", "When does the harbour ferry to Cacilhas leave?"),
    (
        "assistant",
        "Every fifteen minutes from Cais do Sodré, later in the evening every half hour.",
    ),
    ("user", "And what is the tide doing at noon?"),
    ("assistant", "High water is at 11:52, so at noon it has just begun to fall."),
    ("user", "Where can we eat without shellfish?"),
    ("assistant", "Try the taverns uphill in Alfama; most of them serve pork and greens."),
    ("user", "Is tram 28 worth the queue?"),
    (
        "assistant",
        "Before nine in the morning it is; later, walk beside it and take the funicular.",
    ),
    ("user", "How warm is the sea in May?"),
    ("assistant", "About seventeen degrees: a swim is short."),
    ("user", "Book the earlier train to Porto, please."),
    ("assistant", "The 08:02 from Santa Apolónia has seats left; shall I take two by the window?"),
]
RECIPES = [
    ("user", "How long do chickpeas soak?"),
    ("assistant", "Overnight, in three times their volume."),
    ("user", "And without soaking?"),
    ("assistant", "Two hours at a simmer, with a pinch of soda."),
]
STANDUP = [
    ("user", "What did we promise for Friday?"),
    ("assistant", "The release notes, and the second half of the migration."),
]


def fill(door: House) -> None:
    """Three sessions, with turns of every standing but recalled."""
    talk(door, "trip-to-lisbon", LISBON)
    talk(door, "recipes", RECIPES, later_s=300)
    talk(door, "standup/monday", STANDUP, later_s=900)
    hashes = blocks_of(LISBON)
    ends = [len(spell(LISBON[: 2 * turn])) // 4 for turn in range(7)]
    evict(door, hashes[: ends[2] - 1])
    evict(door, blocks_of(STANDUP)[-3:])
    move(door, LISBON, range(ends[3], ends[4] - 4), Tier.HOST)
    move(door, LISBON, range(ends[4] + 1, ends[5] - 3), Tier.DISK)


def talk(door: House, session: str, said: Sequence[tuple[str, str]], later_s: int = 0) -> None:
    """One request per turn, a minute apart."""
    for turn in range(2, len(said) + 1, 2):
        started = BEGAN_NS + (later_s + 60 * turn) * 10**9
        door.consumer.apply(
            door.worker.complete(said[:turn], session=session, started_unix_ns=started)
        )


def evict(door: House, hashes: array[int]) -> None:
    """Blocks leave the device, and whoever watches is told."""
    door.consumer.apply([door.worker.evict(hashes)])
    door.means.bell.ring()


def move(door: House, said: Sequence[tuple[str, str]], blocks: range, tier: Tier) -> None:
    """Blocks of a conversation leave the device for a farther tier."""
    hashes, tokens = blocks_of(said), spell(said)
    stored = tuple(
        BlocksStored(
            hashes[at : at + 1],
            BlockHash(hashes[at - 1]) if at else None,
            tokens[4 * at : 4 * at + 4],
            at,
            tier=tier,
        )
        for at in blocks
    )
    gone = BlocksRemoved(hashes[blocks.start : blocks.stop], Tier.DEVICE)
    door.consumer.apply([door.worker.emit(BlockBatch((*stored, gone)))])


def blocks_of(said: Sequence[tuple[str, str]]) -> array[int]:
    """The hashes of a conversation's full blocks on the fake worker."""
    return array("Q", block_hashes(root_hash(b"fake", cache_salt=""), spell(said), 4))
