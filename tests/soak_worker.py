"""One worker of the soak by itself, with the settings that a test wants."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from line_process import LineProcess
from shepherd_cli.stack import free_port
from shepherd_events.events import StreamAddress, StreamId
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import StreamState
from soak.cache_life import fingerprint
from soak.scene import PYTHON_PATH
from stream_readers import Reader

PROGRAM = str(Path(__file__).parent / "soak" / "worker.py")


class SoakWorker(LineProcess):
    """A publisher, rank 0 of which tests read."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.live_port, self.control_port = free_port(), free_port()
        chosen = {
            "worker": "soak-1",
            "ranks": 1,
            "transport": "zmq",
            "ports": [(self.live_port, self.control_port)],
            "directory": str(directory),
            "seed": 1,
            "clock_offset_ns": 0,
            "max_queued_events": 100_000,
            "ring_bytes": 64 << 20,
            "log_bytes": 64 << 20,
            "requests_per_s": 100,
        } | settings
        super().__init__(PROGRAM, json.dumps(chosen), env=PYTHON_PATH)

    @property
    def address(self) -> StreamAddress:
        told = dict(self.started[0])
        return StreamAddress(stream=StreamId(**told.pop("stream")), **told)

    def address_through(self, live_port: int, control_port: int) -> StreamAddress:
        """The address, with somebody in between."""
        return replace(
            self.address,
            live=f"tcp://127.0.0.1:{live_port}",
            control=f"tcp://127.0.0.1:{control_port}",
        )

    def flood(self, requests: int) -> None:
        """Publish as fast as it can."""
        self.ask({"do": "flood", "rank": 0, "requests": requests})

    def truth(self) -> dict[str, Any]:
        """Its position, and what is resident there."""
        (truth,) = self.ask({"do": "truth"})
        return dict(truth)


def has_all(reader: Reader, truth: dict[str, Any]) -> bool:
    """Whether a reader says LIVE, at the head."""
    return reader.subscription.state is StreamState.LIVE and reader.position == Position(
        *truth["position"]
    )


def holds_all(residents: ResidentSet, truth: dict[str, Any]) -> bool:
    """Whether the very same blocks are held."""
    return fingerprint(residents) == truth["fingerprint"]
