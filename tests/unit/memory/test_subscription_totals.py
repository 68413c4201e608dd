"""What subscriptions had to repair is told to Prometheus, also of those that ended."""

from __future__ import annotations

from contextlib import ExitStack

from shepherd_events.transports.memory import flip_bit
from shepherd_memory.metrics import Metrics
from stream_readers import turn
from stream_source import started


async def test_totals_hold_open_and_ended_subscriptions_and_never_fall() -> None:
    metrics, source = Metrics(), started()
    for round_number in (1, 2):
        with ExitStack() as stack:
            async with source.reader() as reader:
                stack.enter_context(metrics.subscriptions.counting(reader.subscription))
                await reader.read_up_to(source.head_seq)
                source.send(turn(1), live=False)
                source.send_live(flip_bit(source.payload(turn(1), source.head_seq), 200))
                await reader.read_up_to(source.head_seq)
                assert metrics.subscriptions.total.corrupt == round_number
        assert metrics.subscriptions.total.corrupt == round_number
        assert metrics.subscriptions.total.frames == 4 + 5 * (round_number - 1)

    text = metrics.render().decode()
    assert "shepherd_stream_reader_corrupt_total 2.0" in text
    assert "shepherd_stream_reader_digest_mismatches_total 0.0" in text
