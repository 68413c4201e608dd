"""All processes of a soak, and how each kind of fault is done to them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from line_process import LineProcess
from nats_broker import NatsBroker
from shepherd_cli.stack import free_port
from soak.plan import CONTROL, LIVE, READERS, WORKERS, Fault

RANKS = 2
REQUESTS_PER_S = 150
RING_BYTES, LOG_BYTES, MAX_QUEUED_EVENTS = 64 << 10, 512 << 10, 2_000
FLOOD_REQUESTS = 6_000
SLOW_S = 0.005
CLOCK_BACK_NS = -3600 * 10**9
_HERE = Path(__file__).parent
PYTHON_PATH = {"PYTHONPATH": os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")])}


class Scene:
    """Who runs, who is frozen, who is away."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._seed = seed
        self._ports = [(free_port(), free_port()) for _ in range(RANKS)]
        self.broker = NatsBroker(directory)
        self.processes: dict[str, LineProcess] = {}
        self.frozen: set[str] = set()
        self.away: set[str] = set()
        self._zombies: list[LineProcess] = []
        self._addresses: list[dict[str, Any]] = []

    def start(self) -> None:
        """Everybody, in the order in which they need one another."""
        self.broker.start()
        for name in WORKERS:
            self._start_worker(name)
        targets = {
            "seed": self._seed,
            "live": {name: live for name, (live, _) in zip(LIVE, self._ports, strict=True)},
            "tcp": {name: control for name, (_, control) in zip(CONTROL, self._ports, strict=True)}
            | {"broker-wire": self.broker.port},
        }
        self.processes["wires"] = self._process("wires.py", targets)
        wires = self.processes["wires"].started
        self._addresses = [
            self._through(wires, address)
            for name in WORKERS
            for address in self.processes[name].started
        ]
        for name in READERS:
            self._start_reader(name)
        self.run_workers(is_running=True)

    def end(self) -> None:
        """Nobody is left."""
        for process in (*self._zombies, *self.processes.values()):
            process.end()
        if "broker" not in self.away:
            self.broker.kill()

    def can_answer(self, name: str) -> bool:
        """Whether a process is there and not frozen."""
        return name not in self.frozen and name not in self.away

    def run_workers(self, *, is_running: bool) -> None:
        """Let all workers publish, or pause."""
        for name in WORKERS:
            self.processes[name].ask({"do": "run", "run": is_running})

    # ---- Faults

    def begin(self, fault: Fault) -> None:
        """Do a fault."""
        target = fault.target
        match fault.kind:
            case "kill worker" | "kill reader" | "set the clock back":
                self.processes[target].end()
                self.frozen.discard(target)
                self.away.add(target)
            case "kill broker":
                self.broker.kill()
                self.away.add("broker")
            case "freeze worker" | "freeze reader":
                if self.can_answer(target):
                    self.processes[target].stop()
                    self.frozen.add(target)
            case "zombie":
                self._begin_zombie(target)
            case "slow reader" | "corrupt" | "flood" | "nonsense":
                self._tell(fault)
            case wire_fault:
                self.processes["wires"].ask({"wire": target, "fault": wire_fault})

    def finish(self, fault: Fault) -> None:
        """Undo it."""
        target = fault.target
        match fault.kind:
            case "kill worker":
                self._start_worker(target)
            case "set the clock back":
                self._start_worker(target, clock_offset_ns=CLOCK_BACK_NS)
            case "kill reader":
                self._start_reader(target)
            case "kill broker":
                self._start_broker()
            case "freeze worker" | "freeze reader" | "zombie":
                self._thaw(target)
                for zombie in self._zombies:
                    zombie.go_on()
            case "slow reader":
                if self.can_answer(target):
                    self.processes[target].ask({"do": "pause", "seconds": 0})
            case "corrupt" | "flood" | "nonsense":
                pass
            case _:
                self.processes["wires"].ask({"wire": target, "fault": ""})

    def heal(self) -> None:
        """Everybody is there and can reach everybody."""
        for zombie in self._zombies:
            zombie.end()
        self._zombies.clear()
        assert not self.away, "every fault was undone"
        assert not self.frozen, "every fault was undone"

    def _tell(self, fault: Fault) -> None:
        if not self.can_answer(fault.target):
            return
        process, rank = self.processes[fault.target], int(fault.at_s * 1000) % RANKS
        match fault.kind:
            case "slow reader":
                process.ask({"do": "pause", "seconds": SLOW_S})
            case "corrupt":
                process.ask({"do": "corrupt", "number": int(fault.at_s * 1000)})
            case "flood":
                process.ask({"do": "flood", "rank": rank, "requests": FLOOD_REQUESTS})
            case "nonsense":
                process.ask({"do": "nonsense", "rank": rank})

    def _begin_zombie(self, target: str) -> None:
        """Freeze a publisher and put an heir in its place; it will wake up and go on."""
        if "broker" in self.away or not self.can_answer(target):
            return
        self.processes[target].stop()
        self._zombies.append(self.processes[target])
        self._start_worker(target)

    def _thaw(self, target: str) -> None:
        if target in self.frozen:
            self.processes[target].go_on()
            self.frozen.discard(target)

    # ---- Processes

    def _start_broker(self) -> None:
        self.broker.start()
        self.away.discard("broker")
        if "nats waits" in self.away:
            self.away.discard("nats waits")
            self._start_worker("nats")

    def _start_worker(self, name: str, *, clock_offset_ns: int = 0) -> None:
        if name == "nats" and "broker" in self.away:
            self.away.add("nats waits")
            return
        settings = {
            "worker": f"soak-{name}",
            "ranks": RANKS,
            "transport": name,
            "ports": self._ports,
            "broker": self.broker.url,
            "directory": str(self._directory),
            "seed": self._seed,
            "clock_offset_ns": clock_offset_ns,
            "max_queued_events": MAX_QUEUED_EVENTS,
            "ring_bytes": RING_BYTES,
            "log_bytes": LOG_BYTES,
            "requests_per_s": REQUESTS_PER_S,
        }
        self.processes[name] = self._process("worker.py", settings)
        self.processes[name].ask({"do": "run", "run": True})
        self.away.discard(name)

    def _start_reader(self, name: str) -> None:
        self.processes[name] = self._process("reader.py", self._addresses)
        self.away.discard(name)

    def _process(self, program: str, settings: object) -> LineProcess:
        return LineProcess(str(_HERE / program), json.dumps(settings), env=PYTHON_PATH)

    def _through(self, wires: dict[str, int], address: dict[str, Any]) -> dict[str, Any]:
        """An address as readers are given it: every byte of it passes a wire."""
        rank = address["stream"]["dp_rank"]
        ports = {str(self.broker.port): wires["broker-wire"]}
        if address["transport"] == "zmq":
            live, control = self._ports[rank]
            ports = {str(live): wires[LIVE[rank]], str(control): wires[CONTROL[rank]]}
        changed = dict(address)
        for field in ("live", "control"):
            for port, wire in ports.items():
                changed[field] = changed[field].replace(f":{port}", f":{wire}")
        return changed
