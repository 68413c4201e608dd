"""A model whose chat template nobody understands: its text is archived, never nothing."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest

from shepherd_events.transcript import Message
from shepherd_memory.fake import FakeWorker

if TYPE_CHECKING:
    from conftest import World

Said = list[tuple[str, str]]

T1: Said = [("user", "Where do cats sleep?"), ("assistant", "Everywhere at all.")]
T2: Said = [("user", "And what do dogs eat?"), ("assistant", "Whatever is left.")]
TEXT1, TEXT2 = "Where do cats sleep?Everywhere at all.", "And what do dogs eat?Whatever is left."


class UnreadTranscript:
    """Knows the letters, and not who says them."""

    def read(self, token_ids: array[int]) -> tuple[Message, ...]:
        text = "".join(chr(token - 16) for token in token_ids if token >= 16)
        return (Message("raw", text, 0, len(token_ids)),)


@pytest.fixture
def unread(world: World) -> World:
    world.stop()
    world.start(transcript=UnreadTranscript())
    return world


def test_a_growing_conversation_is_one_turn_while_it_is_cached(unread: World) -> None:
    worker = FakeWorker()
    unread.apply(*worker.complete(T1))
    unread.apply(*worker.complete([*T1, *T2]))

    assert unread.live() == [(1, TEXT1 + TEXT2)]
    assert unread.archived() == []


def test_its_text_is_archived_when_it_is_evicted_though_it_is_the_newest(unread: World) -> None:
    worker = FakeWorker()
    unread.apply(*worker.complete(T1))
    unread.apply(worker.evict(worker.blocks_of(T1)[2:3]))

    assert unread.archived() == [(1, TEXT1)]
    assert len(unread.search("cats")) == 1
    (notice,) = unread.outbox()
    assert notice.topic == "an earlier part of this conversation"


def test_what_follows_is_kept_without_what_was_archived_before(unread: World) -> None:
    worker = FakeWorker()
    unread.apply(*worker.complete(T1))
    unread.apply(worker.evict(worker.blocks_of(T1)[2:3]))
    unread.apply(*worker.complete([*T1, *T2]))
    assert unread.live() == [(1, TEXT2)]

    unread.apply(worker.evict(worker.blocks_of([*T1, *T2])[-1:]))
    assert sorted(text for _, text in unread.archived()) == sorted([TEXT1, TEXT2])

    unread.apply(*worker.complete([*T1, *T2]))
    assert unread.live() == []
    assert len(unread.outbox()) == 2
