"""From frames to archived turns: when, which, once, and whom it concerns."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest

from shepherd_events.events import (
    BlockBatch,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Goodbye,
    Heartbeat,
    StreamId,
    Tier,
)
from shepherd_events.stream_cursor import Position
from shepherd_memory.arrivals import StreamEnded, StreamReplaced
from shepherd_memory.fake import FakeWorker, spell

if TYPE_CHECKING:
    from conftest import World

Said = list[tuple[str, str]]

SYSTEM = ("system", "You are kind and brief.")
T1: Said = [("user", "Where do cats sleep?"), ("assistant", "Everywhere at all.")]
T2: Said = [("user", "And what do dogs eat?"), ("assistant", "Whatever the cat leaves.")]
T3: Said = [("user", "Who feeds the two?"), ("assistant", "You do.")]
TEXT1 = (1, "Where do cats sleep? Everywhere at all.")
TEXT2 = (2, "And what do dogs eat? Whatever the cat leaves.")
TEXT3 = (3, "Who feeds the two? You do.")


def only(worker: FakeWorker, said: Said, part: Said, salt: str = "") -> list[int]:
    """The blocks that hold a token of `part` and none of another message."""
    token_ids = spell(said)
    wanted = spell(part)
    start = next(
        place for place in range(len(token_ids)) if token_ids[place : place + len(wanted)] == wanted
    )
    first, stop = -(-start // 4), (start + len(wanted)) // 4
    return list(worker.blocks_of(said, salt=salt)[first:stop])


def talked(world: World, worker: FakeWorker, *conversation: Said, session: str = "s") -> Said:
    """Each turn completed by its own request, the system prompt before all."""
    said = [SYSTEM]
    for turn in conversation:
        said = said + turn
        world.apply(*worker.complete(said, session=session))
    return said


def test_completed_turns_are_written_at_once_as_live(world: World) -> None:
    talked(world, FakeWorker(), T1, T2)

    assert world.live() == [TEXT1, TEXT2]
    assert world.archived() == []
    assert world.search("cats") == []


def test_a_turn_is_archived_when_one_of_its_blocks_is_gone(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)

    notices = world.apply(worker.evict(only(worker, said, T1)[-1:]))

    assert world.archived() == [TEXT1]
    assert world.live() == [TEXT2]
    assert [hit.turn.messages[0].text for hit in world.search("cats")] == ["Where do cats sleep?"]
    (notice,) = notices
    assert notice.text == (
        'NOTICE: Conversation regarding "Where do cats sleep?" has been moved to '
        "long-term memory. Use search_memory to recall it."
    )
    assert (notice.session_id, notice.tenant, notice.turns) == ("s", "local", (1,))
    assert notice.archive_ids == (world.turns()[0].archive_id,)
    assert world.outbox() == [notice]


def test_the_rest_of_an_archived_turns_blocks_changes_nothing_more(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)
    blocks = only(worker, said, T1)

    for block_hash in blocks:
        world.apply(worker.evict([block_hash]))

    assert world.archived() == [TEXT1]
    assert len(world.outbox()) == 1


def test_a_block_that_another_worker_holds_is_not_gone(world: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2")
    said = talked(world, first, T1, T2)
    world.apply(*second.complete(said, request="again"))
    blocks = only(first, said, T1)

    world.apply(first.evict(blocks))
    assert world.archived() == []

    world.apply(second.evict(blocks))
    assert world.archived() == [TEXT1]


def test_a_move_to_the_host_tier_is_no_eviction(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)
    block = array("Q", only(worker, said, T1)[:1])
    moved = BlocksStored(block, None, array("I"), 0, tier=Tier.HOST)

    world.apply(worker.emit(BlockBatch((BlocksRemoved(block), moved))))
    assert world.archived() == []

    world.apply(worker.evict(block, Tier.HOST))
    assert world.archived() == [TEXT1]


def test_other_groups_of_a_hybrid_model_say_nothing_of_a_turn(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)
    block = array("Q", only(worker, said, T1)[:1])

    world.apply(worker.emit(BlockBatch((BlocksRemoved(block, group=1),))))
    assert world.archived() == []

    again = BlocksStored(block, None, array("I"), 0, group=1)
    world.apply(worker.emit(BlockBatch((again, BlocksRemoved(block)))))
    assert world.archived() == [TEXT1]


def test_the_system_prompts_blocks_concern_no_turn(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)

    world.apply(worker.evict(only(worker, said, [SYSTEM])))

    assert world.archived() == []


def test_a_block_that_two_turns_share_archives_both_that_may(world: World) -> None:
    worker = FakeWorker(block_size=5)
    said = talked(world, worker, T1, T2, T3)
    start = len(spell([SYSTEM, *T1]))
    assert start % 5, "the boundary lies inside a block"

    (notice,) = world.apply(worker.evict([worker.blocks_of(said)[start // 5]]))

    assert world.archived() == [TEXT1, TEXT2]
    assert notice.turns == (1, 2)


def test_two_sessions_with_the_same_beginning_each_keep_their_turn(world: World) -> None:
    worker = FakeWorker()
    talked(world, worker, T1, T2, session="a")
    said = talked(world, worker, T1, T3, session="b")

    notices = world.apply(worker.evict(only(worker, said, T1)))

    assert world.archived("a") == world.archived("b") == [TEXT1]
    assert sorted(notice.session_id for notice in notices) == ["a", "b"]
    assert len({notice.notice_id for notice in notices}) == 2


def test_the_newest_turn_waits_until_it_is_superseded(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)

    world.apply(worker.evict(only(worker, said, T2)))
    assert world.archived() == []

    world.apply(*worker.complete([SYSTEM, *T3], started_unix_ns=99))
    assert world.archived() == [TEXT2]
    assert world.notices[-1].turns == (2,)


def test_a_recomputed_turn_is_judged_by_its_newest_blocks(world: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2", model="other")
    said = talked(world, first, T1, T2)
    said = said + T3
    world.apply(*second.complete(said, started_unix_ns=99))

    world.apply(first.evict(only(first, said, T1)))
    assert world.archived() == []

    world.apply(second.evict(only(second, said, T1)))
    assert world.archived() == [TEXT1]


def test_a_frame_of_an_earlier_request_does_not_move_a_turn_back(world: World) -> None:
    late, second = FakeWorker("w1"), FakeWorker("w2", model="other")
    said = [SYSTEM, *T1, *T2]
    world.apply(*second.complete(said, started_unix_ns=99))

    world.apply(*late.complete(said[:3], started_unix_ns=1))
    world.apply(late.evict(only(late, said, T1)))
    assert world.archived() == []

    world.apply(second.evict(only(second, said, T1)))
    assert world.archived() == [TEXT1]


def test_an_archived_turn_that_is_computed_again_stays_archived_silently(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)
    blocks = only(worker, said, T1)
    world.apply(worker.evict(blocks))

    world.apply(*worker.complete(said + T3, started_unix_ns=99))
    world.apply(worker.evict(blocks))

    assert world.archived() == [TEXT1]
    assert len(world.outbox()) == 1


def test_evictions_of_one_batch_are_one_notice_a_session(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2, T3)

    notices = world.apply(
        worker.evict(only(worker, said, T2)), worker.evict(only(worker, said, T1))
    )

    (notice,) = notices
    assert notice.turns == (1, 2)
    assert notice.topic == "Where do cats sleep?"
    assert world.outbox() == [notice]


@pytest.mark.parametrize("how", ["left", "cleared", "snapshot", "new epoch"])
def test_a_lost_cache_archives_all_but_the_newest_turn(world: World, how: str) -> None:
    worker = FakeWorker()
    talked(world, worker, T1, T2, T3)

    if how == "left":
        world.apply(StreamEnded(worker.stream))
    elif how == "cleared":
        world.apply(worker.emit(BlockBatch((BlocksCleared(),))))
    elif how == "snapshot":
        world.apply(StreamReplaced(worker.stream, Position(2, 5), (), "gap"))
    else:
        world.apply(*FakeWorker(epoch=2).complete([("user", "x")], session="other"))

    assert world.archived() == [TEXT1, TEXT2]
    assert world.live() == [TEXT3]
    assert len(world.outbox()) == 1


def test_a_snapshot_keeps_the_turns_whose_blocks_it_names(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2, T3)
    gone = set(only(worker, said, T2))
    runs = tuple(
        BlocksStored(array("Q", [block_hash]), None, array("I"), 0)
        for block_hash in worker.blocks_of(said)
        if block_hash not in gone
    )

    world.apply(StreamReplaced(worker.stream, Position(1, 50), runs, "gap"))

    assert world.archived() == [TEXT2]
    assert world.consumer.positions == {worker.stream: Position(1, 50)}


def test_frames_that_come_again_are_dropped(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)
    world.apply(worker.evict(only(worker, said, T1)))
    before = (world.turns(), world.outbox())

    assert world.apply(*worker.frames) == ()

    assert (world.turns(), world.outbox()) == before
    assert world.count("shepherd_stream_duplicates_total") == len(worker.frames)


def test_an_older_epoch_is_dropped(world: World) -> None:
    old, new = FakeWorker(epoch=1), FakeWorker(epoch=2)
    world.apply(*new.complete([("user", "new"), ("assistant", "yes")]))

    world.apply(*old.complete([("user", "old"), ("assistant", "no")]))

    assert world.live() == [(1, "new yes")]


def test_an_anonymous_turn_is_counted_and_not_stored(world: World) -> None:
    world.apply(*FakeWorker().complete([SYSTEM, *T1], session=""))

    assert world.count("shepherd_memory_turns_anonymous_total") == 1
    assert list(world.archives.tenants()) == []


def test_a_tenants_turns_lie_in_its_own_store(world: World) -> None:
    worker = FakeWorker()
    said = [SYSTEM, *T1, *T2]
    world.apply(*worker.complete(said, tenant="acme"))

    (notice,) = world.apply(worker.evict(only(worker, said, T1, salt="acme")))

    assert notice.tenant == "acme"
    assert world.archived(tenant="acme") == [TEXT1]
    assert world.turns(tenant="local") == []
    assert world.search("cats") == []


def test_a_repeated_request_with_part_of_its_answer_is_one_turn(world: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2")
    cut = [SYSTEM, T1[0], ("assistant", "Every")]
    world.apply(*first.complete(cut, request="r"))

    world.apply(*second.complete([SYSTEM, *T1], request="r"))

    assert world.live() == [TEXT1]


def test_the_cut_version_of_a_turn_may_come_last(world: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2")
    world.apply(*second.complete([SYSTEM, *T1], request="r"))

    world.apply(*first.complete([SYSTEM, T1[0], ("assistant", "Every")], request="r"))

    assert world.live() == [TEXT1]


def test_the_rounds_of_a_tool_loop_are_one_turn(world: World) -> None:
    worker = FakeWorker()
    rounds: Said = [SYSTEM, ("user", "rain?"), ("assistant", "call weather")]
    world.apply(*worker.complete(rounds, request="r1"))
    rounds = [*rounds, ("tool", "wet"), ("assistant", "Yes.")]

    world.apply(*worker.complete(rounds, request="r2"))

    assert world.live() == [(1, "rain? call weather wet Yes.")]


def test_a_regenerated_answer_is_kept_beside_the_first(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([SYSTEM, *T1], request="r1"))

    world.apply(*worker.complete([SYSTEM, T1[0], ("assistant", "In boxes.")], request="r2"))

    assert world.live() == [TEXT1, (1, "Where do cats sleep? In boxes.")]


def test_an_answer_that_is_rendered_differently_later_is_the_same_turn(world: World) -> None:
    worker = FakeWorker()
    thought = [T1[0], ("assistant", "<think>hm</think>Everywhere.")]
    world.apply(*worker.complete([SYSTEM, *thought]))

    world.apply(*worker.complete([SYSTEM, T1[0], ("assistant", "Everywhere."), *T2]))

    assert [ordinal for ordinal, _ in world.live()] == [1, 2]
    assert world.live()[0][1].endswith("<think>hm</think>Everywhere.")


def test_turns_keep_their_numbers_when_the_oldest_leave_the_context(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2, T3)
    world.apply(worker.evict(only(worker, said, T1)))

    notice = world.outbox()[0].text
    trimmed: Said = [SYSTEM, *T2, *T3, ("user", f"{notice}\nAnd now?"), ("assistant", "Sleep.")]
    world.apply(*worker.complete(trimmed))

    assert world.archived() == [TEXT1]
    assert world.live() == [TEXT2, TEXT3, (4, "And now? Sleep.")]


def test_history_that_was_never_seen_is_kept_too(world: World) -> None:
    world.apply(*FakeWorker().complete([SYSTEM, *T1, *T2, *T3]))

    assert world.live() == [TEXT1, TEXT2, TEXT3]


def test_an_unknown_beginning_is_counted_and_the_known_end_is_kept(world: World) -> None:
    worker = FakeWorker(block_size=5)
    frames = worker.complete([SYSTEM, *T1], turn=7)

    world.apply(frames[-1])

    assert world.count("shepherd_memory_turns_incomplete_total") == 1
    ((ordinal, text),) = world.live()
    assert ordinal == 7
    assert TEXT1[1].endswith(text)


def test_a_known_end_gives_way_to_the_whole_turn(world: World) -> None:
    worker = FakeWorker(block_size=5)
    world.apply(worker.complete([SYSTEM, *T1], turn=1)[-1])
    assert world.live() == [(1, "all.")]

    world.apply(*FakeWorker("w2").complete([SYSTEM, *T1, *T2]))

    assert world.live() == [TEXT1, TEXT2]


def test_a_stream_without_tokens_keeps_what_the_tail_says(world: World) -> None:
    worker = FakeWorker()
    blocks, completed = worker.complete([("user", "ab"), ("assistant", "cdefg")], turn=1)
    assert isinstance(blocks.body, BlockBatch)
    secret = tuple(
        BlocksStored(event.block_hashes, event.parent_hash, array("I"), event.start_block)
        for event in blocks.body.events
        if isinstance(event, BlocksStored)
    )
    hidden = FakeWorker().emit(BlockBatch(secret))

    world.apply(hidden, completed)

    assert world.live() == [(1, "g")]
    assert world.count("shepherd_memory_turns_incomplete_total") == 1


def test_a_frame_that_cannot_be_read_is_skipped_and_the_next_applied(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    worker = FakeWorker()
    broken = BlocksStored(array("Q", [1, 2]), None, array("I", [1, 2, 3]), 0)
    good = BlocksStored(array("Q", [9]), None, array("I", [5]), 0)
    world.apply(worker.emit(BlockBatch((good, broken))))
    worker.complete([("user", "x")], started_unix_ns=2**63)
    late = FakeWorker(epoch=2**63)

    world.apply(*worker.frames, *late.complete([("user", "y")]))
    world.apply(*worker.complete([SYSTEM, *T1]))

    assert world.count("shepherd_memory_poison_frames_total") == 3
    assert world.live() == [TEXT1]
    assert "frame skipped" in caplog.text
    assert "cats" not in caplog.text


def test_a_stream_whose_transcript_fails_does_not_stop_the_others(world: World) -> None:
    stranger = FakeWorker("nobody reads me")

    world.apply(*stranger.complete([SYSTEM, *T1]), *FakeWorker().complete([SYSTEM, *T2]))

    assert world.count("shepherd_memory_poison_frames_total") == 1
    assert [text for _, text in world.live()] == [TEXT2[1]]


def test_what_says_nothing_of_blocks_only_moves_the_position(world: World) -> None:
    worker = FakeWorker()
    heartbeat = FakeWorker()
    goodbye = worker.emit(Goodbye("done"))
    heartbeat.emit(Goodbye("skipped"))
    beat = heartbeat.emit(Heartbeat(head_seq=1, first_available=1))

    world.apply(goodbye, beat)

    assert world.consumer.positions == {StreamId("w1"): Position(1, 1)}


def test_a_copy_on_disk_or_host_serves_the_turn_as_well(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2)
    block = array("Q", only(worker, said, T1)[:1])
    for tier in (Tier.HOST, Tier.DISK):
        world.apply(worker.emit(BlockBatch((BlocksStored(block, None, array("I"), 0, tier=tier),))))

    for tier in (Tier.DEVICE, Tier.HOST):
        world.apply(worker.evict(block, tier))
        assert world.archived() == []
    world.apply(worker.evict(block, Tier.DISK))

    assert world.archived() == [TEXT1]


def test_a_tier_that_is_emptied_takes_only_what_no_other_tier_has(world: World) -> None:
    worker = FakeWorker()
    said = talked(world, worker, T1, T2, T3)
    kept = array("Q", [*only(worker, said, [SYSTEM, *T1]), *worker.blocks_of(said)[:17]])
    world.apply(worker.emit(BlockBatch((BlocksStored(kept, None, array("I"), 0, Tier.HOST),))))

    world.apply(worker.emit(BlockBatch((BlocksCleared(Tier.DEVICE),))))

    assert world.archived() == [TEXT2]


def test_a_prefill_and_a_decode_worker_hold_one_turn_between_them(world: World) -> None:
    prefill, decode = FakeWorker("w1"), FakeWorker("w2")
    prompt, said = [SYSTEM, T1[0]], [SYSTEM, *T1]
    world.apply(*prefill.complete(prompt, request="r", started_unix_ns=1))
    world.apply(*decode.complete(said, request="r", started_unix_ns=2))
    world.apply(*decode.complete([*said, *T2], request="r2", started_unix_ns=3))
    assert world.live() == [TEXT1, TEXT2]

    blocks = only(decode, said, T1)
    world.apply(prefill.evict(blocks))
    assert world.archived() == []
    world.apply(decode.evict(blocks))
    assert world.archived() == [TEXT1]


def test_a_migrated_request_is_one_turn_and_lives_where_it_ended(world: World) -> None:
    first, second = FakeWorker("w1"), FakeWorker("w2")
    begun = [SYSTEM, *T1, T2[0], ("assistant", "Whatever")]
    world.apply(*first.complete(begun, request="r", started_unix_ns=5))
    world.apply(*second.complete([SYSTEM, *T1, *T2], request="r", started_unix_ns=5))
    assert world.live() == [TEXT1, TEXT2]

    world.apply(StreamEnded(first.stream))

    assert world.archived() == []
    assert world.live() == [TEXT1, TEXT2]


def test_the_newest_turn_of_a_session_that_has_ended_is_archived_when_evicted(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([SYSTEM, *T1], final=True))
    assert world.archived() == []

    world.apply(worker.evict(only(worker, [SYSTEM, *T1], T1)))

    assert world.archived() == [TEXT1]


def test_the_end_of_a_session_survives_a_restart(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([SYSTEM, *T1], final=True))
    world.restart()

    world.apply(worker.evict(only(worker, [SYSTEM, *T1], T1)))
    world.restart()

    assert world.archived() == [TEXT1]


def test_a_session_that_goes_on_after_its_end_has_a_newest_turn_again(world: World) -> None:
    worker = FakeWorker()
    world.apply(*worker.complete([SYSTEM, *T1], final=True))
    said = [SYSTEM, *T1, *T2]
    world.apply(*worker.complete(said))

    world.apply(worker.evict(worker.blocks_of(said)))

    assert world.archived() == [TEXT1]
    assert world.live() == [TEXT2]
