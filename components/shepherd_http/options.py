"""Where a process's HTTP doors are: one for those it serves, one for whoever operates it.

Knows no credential; who may open a door beyond loopback, `shepherd_auth` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from shepherd_config import option


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """Two doors; inherited by configurations, which have ports of their own.

    Without slots of its own: a class cannot have two bases with slots.
    """

    http_host: str = option(
        "Address of the HTTP interface; beyond loopback only with credentials.",
        default="127.0.0.1",
        group="http",
    )
    http_port: int = option(
        "Port of the HTTP interface; 0 takes a free one.",
        default=0,
        minimum=0,
        maximum=65535,
        unit="port",
        group="http",
    )
    admin_host: str = option(
        "Address of the operator's interface; beyond loopback only with credentials.",
        default="127.0.0.1",
        group="http",
    )
    admin_port: int | None = option(
        "Port of the operator's interface (/health, /metrics); 0 takes a free one, none has no such interface.",
        default=0,
        minimum=0,
        maximum=65535,
        unit="port",
        group="http",
    )
