"""Rounds of faults, samples in between, and convergence after each."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

from soak.oracle import dishonest, has_converged, wrong
from soak.plan import READERS, WORKERS, Fault, plan
from soak.report import Report
from soak.scene import Scene

SAMPLE_S = 0.5
CONVERGE_S = 30.0
MAX_FAILURES = 10


class Soak:
    """One run; ends early when it has found enough."""

    def __init__(self, directory: Path, seed: int, *, round_s: float, faults: int) -> None:
        self._random = Random(seed)
        self._round_s, self._faults = round_s, faults
        self._scene = Scene(directory, seed)
        self.report = Report(seed)
        self._before: dict[tuple[str, str], dict[str, Any]] = {}
        """The last sample of each reader and stream."""

    def run(self, seconds: float, note: Path | None = None) -> Report:
        """Go on for about so long; what is known so far is noted after each round."""
        began = time.monotonic()
        report = self.report
        try:
            self._scene.start()
            while time.monotonic() < began + seconds and len(report.failures) < MAX_FAILURES:
                self._round()
                report.seconds = time.monotonic() - began
                if note is not None:
                    report.save(note)
        finally:
            self._scene.end()
        report.failures.extend(report.resources.grown())
        return report

    def _round(self) -> None:
        faults = plan(self._random, round_s=self._round_s, faults=self._faults)
        changes = [(fault.at_s, True, fault) for fault in faults]
        changes += [(fault.at_s + fault.for_s, False, fault) for fault in faults]
        changes.sort(key=lambda change: (change[0], not change[1]))
        began = time.monotonic()
        for at_s, begins, fault in changes:
            self._sample_until(began + at_s)
            self._change(fault, begins=begins)
        self._scene.heal()
        self._converge()
        self.report.rounds += 1

    def _change(self, fault: Fault, *, begins: bool) -> None:
        if begins:
            self.report.faults[fault.row] += 1
            self._scene.begin(fault)
        else:
            self._scene.finish(fault)

    def _sample_until(self, deadline: float) -> None:
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(SAMPLE_S, left_s))
            for name in READERS:
                if self._scene.can_answer(name):
                    self._check(name)

    def _check(self, name: str) -> None:
        for sample in self._scene.processes[name].ask({"do": "sample"}):
            before = self._before.get((name, sample["stream"]))
            self._before[name, sample["stream"]] = sample
            worker, rank = _publisher_of(sample["stream"])
            if not self._scene.can_answer(worker):
                continue
            asked = {"do": "at", "rank": rank}
            process = self._scene.processes[worker]
            held_at = dict(zip(("epoch", "seq"), sample["position"], strict=True))
            received = dict(zip(("epoch", "seq"), sample["received"], strict=True))
            self.report.samples += 1
            for problem in (
                wrong(sample, process.ask(asked | held_at)),
                dishonest(before, sample, process.ask(asked | received)),
            ):
                if problem:
                    self._fail(f"{name}: {problem}")

    def _converge(self) -> None:
        """Let everybody come to hold the same; nothing is published meanwhile."""
        scene, report = self._scene, self.report
        scene.run_workers(is_running=False)
        truths = {
            truth["stream"]: truth
            for name in WORKERS
            for truth in scene.processes[name].ask({"do": "truth"})
        }
        began = time.monotonic()
        for name in READERS:
            samples = self._samples_of(name, truths, began + CONVERGE_S)
            for sample in samples:
                pid = scene.processes[name].process.pid
                report.totals[pid, sample["stream"]] = sample["counters"]
                if not has_converged(sample, truths[sample["stream"]]):
                    self._fail(f"{name}: no convergence: {sample} of {truths[sample['stream']]}")
        report.converged_s.append(time.monotonic() - began)
        for stream, truth in truths.items():
            pid = scene.processes[_publisher_of(stream)[0]].process.pid
            names = ("events", "frames", "tombstones", "dropped_events", "send_failures")
            report.totals[pid, stream] = {name: truth["counters"][name] for name in names}
        for name, process in scene.processes.items():
            counts = {} if name == "wires" else process.ask({"do": "health"})
            counts |= {"rss": process.rss_bytes(), "fds": process.num_fds()}
            report.resources.note(name, process.process.pid, **counts)
        scene.run_workers(is_running=True)

    def _samples_of(
        self, name: str, truths: dict[str, Any], deadline: float
    ) -> list[dict[str, Any]]:
        """The last samples of a reader: converged ones, or those at the deadline."""
        while True:
            samples = self._scene.processes[name].ask({"do": "sample", "whole": True})
            done = all(has_converged(sample, truths[sample["stream"]]) for sample in samples)
            if (done and len(samples) == len(truths)) or time.monotonic() > deadline:
                return list(samples)
            time.sleep(0.05)

    def _fail(self, problem: str) -> None:
        self.report.failures.append(
            f"round {self.report.rounds}, {self.report.seconds:.0f} s: {problem}"
        )


def _publisher_of(stream: str) -> tuple[str, int]:
    """The worker, and the rank, of `soak-WORKER/RANK`."""
    worker, _, rank = stream.removeprefix("soak-").partition("/")
    return worker, int(rank)
