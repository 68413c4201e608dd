"""Options of a worker's place on Dynamo: names, planes, listeners, and how it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shepherd_config import OptionError, option


@dataclass(frozen=True, kw_only=True)  # no slots: two slotted bases cannot be combined
class DynamoOptions:
    """The part of a worker's options that Dynamo's runtime is told."""

    namespace: str = option(
        "Dynamo namespace.", default="dynamo", env=("DYN_NAMESPACE",), group="dynamo"
    )
    component: str = option(
        "Dynamo component; empty takes backend, prefill or encode, by role.",
        default="",
        aliases=("--component-name",),
        group="dynamo",
    )
    endpoint: str = option(
        "Name of the endpoint that generates, or a whole NAMESPACE.COMPONENT.ENDPOINT.",
        default="generate",
        env=("DYN_ENDPOINT",),
        group="dynamo",
    )
    discovery_backend: Literal["etcd", "file", "mem", "kubernetes"] = option(
        "Where workers find each other.",
        default="file",
        aliases=("--store-kv",),
        env=("DYN_DISCOVERY_BACKEND",),
        group="dynamo",
    )
    request_plane: Literal["tcp", "nats"] = option(
        "How requests travel.", default="tcp", env=("DYN_REQUEST_PLANE",), group="dynamo"
    )
    event_plane: Literal["zmq", "nats"] = option(
        "How Dynamo's router hears of our blocks.",
        default="zmq",
        env=("DYN_EVENT_PLANE",),
        group="dynamo",
    )
    host: str = option(
        "Address that the request plane and the status server listen on; they know no credentials.",
        default="127.0.0.1",
        env=("DYN_TCP_RPC_HOST",),
        group="dynamo",
    )
    system_port: int | None = option(
        "Port of the status server (/health, /live, /metrics, /engine/shepherd/...); none has no server, 0 any port; Dynamo takes no higher one.",
        default=None,
        env=("DYN_SYSTEM_PORT",),
        minimum=0,
        maximum=32767,
        group="dynamo",
        unit="port",
    )
    dyn_tool_call_parser: str = option(
        "Name of Dynamo's parser that turns the model's text into tool calls, such as hermes; empty has none.",
        default="",
        env=("DYN_TOOL_CALL_PARSER",),
        group="dynamo",
    )
    dyn_reasoning_parser: str = option(
        "Name of Dynamo's parser that tells reasoning from the answer, such as qwen3; empty has none.",
        default="",
        env=("DYN_REASONING_PARSER",),
        group="dynamo",
    )
    health_probe: bool = option(
        "Let Dynamo ask an idle worker for a token now and then; its status server says what came of it.",
        default=False,
        env=("DYN_HEALTH_CHECK_ENABLED",),
        group="dynamo",
    )
    drain_grace_s: float = option(
        "Seconds after SIGTERM in which requests are still taken from frontends that have not noticed.",
        default=1.0,
        minimum=0,
        env=("DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS",),
        group="dynamo",
    )
    drain_timeout_s: float = option(
        "Seconds that running requests get after SIGTERM before they are handed to another worker.",
        default=30.0,
        minimum=0,
        group="dynamo",
    )

    def check_parsers(self) -> None:
        """Compare the parsers' names with those of the Dynamo that is installed.

        Raises:
            OptionError: Dynamo has no parser of that name; exit code 2.
        """
        if not (self.dyn_tool_call_parser or self.dyn_reasoning_parser):
            return
        from shepherd_worker import dynamo_parsers  # noqa: PLC0415  imports dynamo

        for flag, name, known in (
            ("--dyn-tool-call-parser", self.dyn_tool_call_parser, dynamo_parsers.TOOL_CALLS),
            ("--dyn-reasoning-parser", self.dyn_reasoning_parser, dynamo_parsers.REASONING),
        ):
            if name and name not in known:
                raise OptionError(flag, name, f"one of {', '.join(known)}")
