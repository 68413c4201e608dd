"""Row 5: a consumer killed at any moment, between its effect and its cursor included.

What the SDK's cursor promises is that nothing is missed and that what is seen
again is a run of the last items; what the memory service promises is that seeing
it again changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from line_process import LineProcess
from mortal_consumer import JOURNAL
from stream_process import PublisherPlace, StreamProcess, address_of
from stream_readers import DEADLINE_S

PROGRAM = str(Path(__file__).parents[1] / "mortal_consumer.py")
DEATHS = (("before", 1), ("after", 3), ("whenever", 0), ("whenever", 0))


class Mortal:
    """One consumer's lives, with a publisher that goes on all the while."""

    def __init__(self, kind: str, directory: Path) -> None:
        place = PublisherPlace(directory)
        self._kind, self._directory = kind, directory
        self.publisher: StreamProcess = place.start()
        address = address_of(self.publisher.started["epoch"], place.live, place.control)
        self._address = json.dumps(asdict(address))
        self._random = Random(5)

    def live_and_die(self, step: str, number: int) -> None:
        consumer = self._start(step, number)
        self.publisher.tell("events 60")
        if step == "whenever":
            time.sleep(self._random.uniform(0.0, 0.15))
            consumer.end()
            return
        deadline = time.monotonic() + DEADLINE_S
        while consumer.process.poll() is None:
            assert time.monotonic() < deadline, "it should have died by itself"
            self.publisher.tell("events 5")
            time.sleep(0.02)
        consumer.end()

    def live(self) -> tuple[dict[str, object], dict[str, object]]:
        """Where the last life, and the publisher, came to stand."""
        consumer = self._start("never", 0)
        truth = self.publisher.ask("events 20\ntruth")
        deadline = time.monotonic() + DEADLINE_S
        while (where := consumer.ask("where"))["position"] != truth["position"]:
            assert time.monotonic() < deadline, (where, truth)
            time.sleep(0.02)
        consumer.end()
        return where, truth

    def _start(self, step: str, number: int) -> LineProcess:
        return LineProcess(
            PROGRAM, self._kind, self._address, str(self._directory), step, str(number)
        )


@pytest.fixture(params=["cursor", "memory"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mortal]:
    mortal = Mortal(request.param, tmp_path)
    yield mortal
    mortal.publisher.end()


@pytest.mark.parametrize("mortal", ["cursor"], indirect=True)
def test_row_5_what_a_killed_reader_did_not_finish_it_sees_again_and_misses_nothing(
    mortal: Mortal, tmp_path: Path
) -> None:
    for step, number in DEATHS:
        mortal.live_and_die(step, number)
    _, truth = mortal.live()

    seen = [line.split(":") for line in (tmp_path / JOURNAL).read_text().splitlines()]
    numbers = [int(seq) for _, seq, _ in seen]
    assert {kind for *_, kind in seen} == {"frame"}
    assert sorted(set(numbers)) == list(range(1, truth["position"][1] + 1))  # type: ignore[index]
    steps = [after - before for before, after in pairwise(numbers)]
    assert max(steps) == 1, "nothing was skipped"
    assert sum(step != 1 for step in steps) <= len(DEATHS), "only a restart goes back"


@pytest.mark.parametrize("mortal", ["memory"], indirect=True)
def test_row_5_a_killed_memory_service_holds_what_the_publisher_holds_and_nothing_twice(
    mortal: Mortal,
) -> None:
    for step, number in DEATHS:
        mortal.live_and_die(step, number)
    where, truth = mortal.live()

    assert where["digest"] == truth["digest"]
