"""The gateway's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from shepherd_auth.options import AccessOptions
from shepherd_config import OptionError, Resolved, load, option
from shepherd_gateway.context import OnEviction, Policy
from shepherd_http.options import HttpOptions
from shepherd_telemetry.options import TelemetryOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig(HttpOptions, AccessOptions, TelemetryOptions):
    """Everything that can be said to the gateway; see `--help`."""

    upstream: tuple[str, ...] = option(
        "URLs of Dynamo's frontends, without /v1; they are asked in turn.",
        default=("http://127.0.0.1:8000",),
    )
    memory: str = option(
        "URL of the memory service; none passes conversations on as they are.",
        default="http://127.0.0.1:8765",
    )
    memory_key_file: str = option(
        "File with the API key that the memory is shown: one for any tenant (*), with the scopes read and write.",
        default="",
    )
    memory_timeout_s: float = option(
        "Seconds that the memory may take to answer before a chat goes on without it.",
        default=2.0,
        minimum=0.01,
    )
    http_port: int = 8080
    admin_port: int | None = 8081

    on_eviction: OnEviction = option(
        "What becomes of archived turns: notice drops them and tells, recompute keeps them, adaptive does the first only where the second would cost more than --adaptive-tokens.",
        default=OnEviction.NOTICE,
        group="context",
    )
    adaptive_tokens: int = option(
        "Tokens of archived turns that --on-eviction adaptive rather computes again.",
        default=2048,
        minimum=0,
        group="context",
        unit="tokens",
    )
    notice_role: Literal["tool", "user", "system"] = option(
        "Role of a NOTICE, as the model's chat template takes it between two turns.",
        default="tool",
        group="context",
    )
    memory_tools: tuple[str, ...] = option(
        "Tools of the memory that models are offered; empty offers none.",
        default=("search_memory",),
        group="context",
    )
    max_tool_rounds: int = option(
        "Times that a model may call the memory before it must answer.",
        default=4,
        minimum=1,
        maximum=64,
        group="context",
        unit="rounds",
    )

    upstream_timeout_s: float = option(
        "Seconds that a frontend may be silent, before its first byte and between any two.",
        default=300.0,
        minimum=0.1,
        group="limits",
    )
    max_body_mb: int = option(
        "Size of a request's body at most.",
        default=16,
        minimum=1,
        group="limits",
        unit="MiB",
    )
    max_messages: int = option(
        "Messages of a request at most.",
        default=10_000,
        minimum=1,
        group="limits",
        unit="messages",
    )
    max_concurrent: int = option(
        "Requests that are served at once; further ones are refused with 429.",
        default=1000,
        minimum=1,
        group="limits",
        unit="requests",
    )
    drain_timeout_s: int = option(
        "Seconds that running answers may take to end after SIGTERM.",
        default=30,
        minimum=0,
        group="limits",
    )

    @property
    def policy(self) -> Policy:
        """How contexts are made."""
        return Policy(self.on_eviction, self.adaptive_tokens, self.notice_role)

    @property
    def has_memory(self) -> bool:
        """Whether there is one."""
        return self.memory != "none"

    @property
    def memory_key(self) -> str:
        """The key that the memory is shown; empty where there is none.

        Raises:
            OptionError: the file cannot be read.
        """
        path = self.memory_key_file
        if not path:
            return ""
        try:
            return Path(path).expanduser().read_text().strip()
        except OSError as error:
            raise OptionError("--memory-key-file", path, "a readable file") from error


def load_config(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Resolved[GatewayConfig]:
    """Resolve and cross-check the options.

    Raises:
        OptionError: a wrong flag, variable or key, or a file that cannot be used.
    """
    resolved = load(
        GatewayConfig,
        prog="python -m shepherd_gateway",
        section="gateway",
        description="Any OpenAI client's conversations go on though the cache forgets.",
        argv=argv,
        environ=environ,
    )
    config = resolved.config
    config.check_access(http_host=config.http_host, admin_host=config.admin_host)
    config.check_telemetry()
    if not config.upstream:
        raise OptionError("--upstream", "", "at least one URL")
    for url in config.upstream:
        _check_url("--upstream", url)
    if config.has_memory:
        _check_url("--memory", config.memory, ", or none")
        if config.has_credentials and not config.memory_key:
            raise OptionError("--memory-key-file", "", "a file, as soon as there are credentials")
    return resolved


def _check_url(flag: str, url: str, more: str = "") -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.path.rstrip("/").endswith("/v1"):
        raise OptionError(flag, url, f"http://HOST:PORT without /v1{more}")
