"""What the whole system on one machine consists of, and how each part is started; pure.

Every listener of ours is on loopback, and so are Dynamo's as far as its settings
allow: its ZMQ event plane binds all interfaces whatever one says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

READY = "/live"


class Role(Enum):
    """What a part is for."""

    BROKER = "broker"
    MEMORY = "memory"
    WORKER = "worker"
    FRONTEND = "frontend"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the system."""

    name: str
    role: Role
    argv: tuple[str, ...]
    url: str
    """Where it answers."""
    ready_url: str
    """What says 200 as soon as the part can be used."""
    metrics_url: str = ""
    """Empty where it has none."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Beyond what all parts have."""


def environment(
    base: Mapping[str, str], run_dir: Path, *, namespace: str = "shepherd", log: str = "warn"
) -> dict[str, str]:
    """What all parts find in their environment, beyond `base`."""
    return dict(base) | {
        "DYN_LOG": log,
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(run_dir / "discovery"),
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        "DYN_NAMESPACE": namespace,
        "DYN_TCP_RPC_HOST": "127.0.0.1",
        "DYN_SYSTEM_HOST": "127.0.0.1",
        "DYN_TCP_RESPONSE_STREAM_HOST": "lo",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def frontend(port: int, *args: str, router_mode: str = "kv") -> Part:
    """Dynamo's OpenAI frontend; ready when it answers, with or without a model."""
    url = loopback(port)
    where = ("--http-host", "127.0.0.1", "--http-port", str(port), "--router-mode", router_mode)
    argv = _python("dynamo.frontend", *where, *args)
    return Part("frontend", Role.FRONTEND, argv, url, url + "/v1/models", url + "/metrics")


def worker(name: str, port: int, *args: str, env: Mapping[str, str] | None = None) -> Part:
    """A worker; ready when its status server says so."""
    url = loopback(port)
    argv = _python("shepherd_worker", "--system-port", str(port), *args)
    return Part(name, Role.WORKER, argv, url, url + "/health", url + "/metrics", dict(env or {}))


def memory(port: int, admin_port: int, data_dir: Path, *args: str) -> Part:
    """The memory service; ready when it is alive."""
    url = loopback(port)
    where = ("--http-port", str(port), "--admin-port", str(admin_port))
    argv = _python("shepherd_memory", *where, "--data-dir", str(data_dir), *args)
    return Part("memory", Role.MEMORY, argv, url, url + READY, loopback(admin_port) + "/metrics")


def gateway(port: int, admin_port: int | None, upstream: str, memory: str, *args: str) -> Part:
    """The gateway before a frontend, `memory` "none" where there is none; ready when it is alive."""
    url = loopback(port)
    where = ("--upstream", upstream, "--memory", memory, "--http-port", str(port))
    admin = "none" if admin_port is None else str(admin_port)
    argv = _python("shepherd_gateway", *where, "--admin-port", admin, *args)
    metrics = "" if admin_port is None else loopback(admin_port) + "/metrics"
    return Part("gateway", Role.GATEWAY, argv, url, url + READY, metrics)


def broker(port: int, monitor_port: int, store_dir: Path, executable: str) -> Part:
    """A NATS server with JetStream; ready when its log can be written."""
    url = f"nats://127.0.0.1:{port}"
    argv = (executable, "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor_port))
    ready = loopback(monitor_port) + "/healthz"
    return Part("broker", Role.BROKER, (*argv, "-js", "-sd", str(store_dir)), url, ready)


def loopback(port: int) -> str:
    """The URL of a port of this machine."""
    return f"http://127.0.0.1:{port}"


def _python(module: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *args)
