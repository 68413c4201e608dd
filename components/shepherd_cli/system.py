"""Which parts a system has that `shepherd up` runs, and how they know one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shepherd_cli import parts
from shepherd_cli.parts import Part, Role
from shepherd_cli.up_options import UpOptions, nats_server

_LEASE_S: Final = 10.0
"""A prompt whose request was given up keeps its blocks so long; of a small cache that is all."""
_NOT_READY_YET: Final = "tower_http=off"
"""Dynamo's status server logs each probe that it answers with 503 as an error."""


@dataclass(frozen=True, slots=True)
class System:
    """All parts and what they have in common."""

    parts: tuple[Part, ...]
    env: Mapping[str, str]
    ports: tuple[int, ...]
    """What a user on this machine may want to reach, in the order in which they were asked for."""

    def of(self, role: Role) -> list[Part]:
        """The parts of one role, in order."""
        return [part for part in self.parts if part.role is role]

    @property
    def gateway(self) -> Part:
        """The only one."""
        return self.of(Role.GATEWAY)[0]

    @property
    def frontend(self) -> Part:
        """The only one."""
        return self.of(Role.FRONTEND)[0]

    @property
    def memory(self) -> Part:
        """The only one."""
        return self.of(Role.MEMORY)[0]


def design(
    options: UpOptions,
    base_env: Mapping[str, str],
    free_port: Callable[[], int],
    shown_ports: Iterable[int] = (),
) -> System:
    """Give every part its ports and its neighbours.

    `shown_ports` are another design's `ports`, of the same options, to be had again.
    """
    run_dir = options.run_dir
    env = parts.environment(base_env, run_dir, log=options.log_level)
    env.setdefault("OMP_NUM_THREADS", "1")
    env |= {"SHEPHERD_LOG_FORMAT": options.log_format, "DYN_LOGGING_DISABLE_ANSI_COLORS": "1"}
    env["DYN_LOG"] = f"{options.log_level},{_NOT_READY_YET}"
    if options.log_format == "json":
        env["DYN_LOGGING_JSONL"] = "true"
    ports = _Ports(free_port, shown_ports)
    built: list[Part] = []
    stream: tuple[str, ...] = ()
    if options.broker == "nats":
        broker = _broker(ports, run_dir)
        built.append(broker)
        env |= {"DYN_EVENT_PLANE": "nats", "NATS_SERVER": broker.url}
        stream = ("--kv-events", "nats", "--kv-events-endpoint", broker.url)
    memory = parts.memory(ports.shown(), ports.shown(), run_dir / "memory")
    frontend = parts.frontend(ports.shown(), "--migration-limit", "3")
    at = ports.shown(options.port)
    gateway = parts.gateway(at, ports.shown(), frontend.url, memory.url)
    built += [memory, *_workers(options, ports, stream), frontend, gateway]
    return System(tuple(built), env, tuple(ports.told))


def _workers(options: UpOptions, ports: _Ports, more: tuple[str, ...]) -> Iterator[Part]:
    blocks = options.num_kv_blocks
    common = (
        *("--model", str(options.model_dir), "--served-model-name", options.served_model_name),
        *("--num-kv-blocks", str(blocks), "--max-seq-len", str(blocks * 16 - 16)),
        *("--dyn-tool-call-parser", "hermes", "--engine", options.engine, *more),
        *("--transfer-lease-s", str(_LEASE_S)),
    )
    for role in ("prefill", "decode", "aggregated"):
        number: int = getattr(options, role)
        for n in range(number):
            name = role if number == 1 else f"{role}-{n}"
            epochs = str(options.run_dir / f"{name}.epoch")
            stream = ("--worker-id", name, "--kv-events-epoch-file", epochs)
            yield parts.worker(name, ports.shown(), *common, *stream, "--role", role)


def _broker(ports: _Ports, run_dir: Path) -> Part:
    program = nats_server()
    assert program is not None, "checked with the options"
    return parts.broker(ports.free(), ports.free(), run_dir / "broker", program)


class _Ports:
    """Ports that nobody else has, and which of them a user is told of."""

    def __init__(self, free_port: Callable[[], int], shown: Iterable[int]) -> None:
        self._free_port = free_port
        self._given = iter(shown)
        self.told: list[int] = []
        self._taken: set[int] = set()

    def free(self) -> int:
        while (port := self._free_port()) in self._taken:
            pass
        self._taken.add(port)
        return port

    def shown(self, wanted: int = 0) -> int:
        port = next(self._given, wanted) or self.free()
        self.told.append(port)
        return port
