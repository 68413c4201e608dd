"""Probes: there, and not quicker to kill than the program is slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from k8s_validator.pods import Object, Pod, pods_of

WORKER_STARTUP_S = 1800
"""Three times a p99 load of ten minutes."""
PATIENCE_S = 30
"""A liveness probe that is missed for less than this kills nobody."""


def problems(objects: Sequence[Object]) -> Iterator[str]:
    """Pods that would be killed while they load, or that say nothing of themselves."""
    for pod in pods_of(objects):
        if pod.owner["kind"] == "Job":
            continue
        for container in pod.spec["containers"]:
            for each in _container(pod, container):
                yield f"{pod.name}: {container['name']}: {each}"


def _container(pod: Pod, container: Object) -> Iterator[str]:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe not in container:
            yield f"has no {probe}"
            return
    if _seconds(container.get("livenessProbe")) < PATIENCE_S:
        yield f"livenessProbe kills after {_seconds(container.get('livenessProbe'))} s"
    needed = WORKER_STARTUP_S if pod.labels.get("app.kubernetes.io/component") == "worker" else 60
    if (given := _seconds(container.get("startupProbe"))) < needed:
        yield f"startupProbe gives {given} s, expected {needed} or more"
    live, ready = (container.get(p, {}).get("httpGet") for p in ("livenessProbe", "readinessProbe"))
    if live and live == ready and live["path"] != "/live":
        yield "is killed whenever it is not ready: livenessProbe and readinessProbe are the same"


def _seconds(probe: Object | None) -> int:
    """How long a probe may fail before it has consequences."""
    return 0 if probe is None else probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
