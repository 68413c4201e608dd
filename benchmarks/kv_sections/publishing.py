"""Publish rate at one event a call, then calls and latency at 2,000 events/s; all of them arrive."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from functools import partial

from benchmarks.figure import Figure, compare
from benchmarks.kv.listener import Heard, Listener
from benchmarks.kv.msgpack_peer import BlockRemoved, MsgpackPublisher
from benchmarks.kv.workload import INFO, STREAM, WARMING_UP, Workload, workload
from shepherd_events.events import BlocksRemoved
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.zmq import ZmqPublisherTransport

FLOOD, PACED, EVENTS_PER_S = 20_000, 4_000, 2_000
_PEER = "msgpack form"


def figures(rounds: int) -> list[Figure]:
    """Events per second, then microseconds and milliseconds."""
    flood, paced = workload(FLOOD), workload(PACED)
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    calls: dict[str, list[float]] = {"ours": [], "peer": []}
    p50: dict[str, list[float]] = {"ours": [], "peer": []}
    p99: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for who, measure in (("ours", _ours), ("peer", _peer)):
            began, _, heard = measure(flood, 0.0)
            rates[who].append(FLOOD / (heard.ended_at - began))
            _, took, heard = measure(paced, 1 / EVENTS_PER_S)
            calls[who].append(sorted(took)[len(took) * 99 // 100] * 1e6)
            p50[who].append(heard.percentile(50) * 1e3)
            p99[who].append(heard.percentile(99) * 1e3)
    row = partial(compare, peer_name=_PEER)
    slow = partial(row, less_is_better=True)
    return [
        row("flood, one event a call", rates["ours"], rates["peer"], unit="events/s", goal=5.0),
        slow("publish() p99 at 2,000/s", calls["ours"], calls["peer"], unit="us"),
        slow("end to end p50 at 2,000/s", p50["ours"], p50["peer"], unit="ms"),
        slow("end to end p99 at 2,000/s", p99["ours"], p99["peer"], unit="ms"),
    ]


def _ours(work: Workload, pause_s: float) -> tuple[float, list[float], Heard]:
    transport = ZmqPublisherTransport(send_hwm_frames=0)
    publisher = KvEventPublisher(STREAM, INFO, transport, max_queued_events=2 * FLOOD)
    publisher.start()
    listener = Listener("ours", publisher.address.live, len(work.ours))
    listener.wait_ready(lambda: publisher.publish([BlocksRemoved(array("Q", [WARMING_UP]))]))
    began, took = _tell([partial(publisher.publish, [event]) for event in work.ours], pause_s)
    heard = listener.wait_heard()
    publisher.close("done")
    return began, took, heard


def _peer(work: Workload, pause_s: float) -> tuple[float, list[float], Heard]:
    with MsgpackPublisher() as publisher:
        listener = Listener("msgpack", publisher.live, len(work.peers))
        listener.wait_ready(lambda: publisher.publish([BlockRemoved([WARMING_UP])]))
        began, took = _tell([partial(publisher.publish, [event]) for event in work.peers], pause_s)
        return began, took, listener.wait_heard()


def _tell(calls: list[Callable[[], None]], pause_s: float) -> tuple[float, list[float]]:
    """Make the calls, `pause_s` apart; when the first was made, and how long each took."""
    took: list[float] = []
    began = due = time.monotonic()
    for call in calls:
        if pause_s and (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        due += pause_s
        at = time.perf_counter()
        call()
        took.append(time.perf_counter() - at)
    return began, took
