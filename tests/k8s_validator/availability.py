"""Staying up: budgets for drains, spread over machines, room to grow, resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from k8s_validator.pods import Object, Pod, pods_of

_SPREAD = {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
_SCALE_DOWN_S = 1800
"""Scaling down waits at least as long as a worker may take to load."""


def problems(objects: Sequence[Object]) -> Iterator[str]:
    """What a drained machine, a rolling update or an autoscaler would break."""
    pods = [pod for pod in pods_of(objects) if pod.owner["kind"] != "Job"]
    budgets = [each for each in objects if each["kind"] == "PodDisruptionBudget"]
    for pod in pods:
        yield from (f"{pod.name}: {each}" for each in _pod(pod, budgets))
    for budget in budgets:
        spec = budget["spec"]
        if spec.get("maxUnavailable") in {None, 0, "0%"}:
            yield f"PodDisruptionBudget/{budget['metadata']['name']}: it blocks every drain"
    for scaled in (each for each in objects if each["kind"] == "ScaledObject"):
        name = f"ScaledObject/{scaled['metadata']['name']}"
        yield from (f"{name}: {each}" for each in _scaling(scaled["spec"], objects))
    for pod in pods_of(objects):
        for container in pod.containers:
            resources = container.get("resources", {})
            yield from (f"{pod.name}: {container['name']}: {p}" for p in _resources(resources))


def _pod(pod: Pod, budgets: Sequence[Object]) -> Iterator[str]:
    covering = [b for b in budgets if pod.matches(b["spec"]["selector"])]
    if len(covering) != 1:
        yield f"{len(covering)} PodDisruptionBudgets cover it, expected 1"
    if pod.replicas == 1:
        return
    spread = pod.spec.get("topologySpreadConstraints", [])
    if {each["topologyKey"] for each in spread} != _SPREAD:
        yield f"topologySpreadConstraints must be over {sorted(_SPREAD)}"
    if not all(pod.matches(each["labelSelector"]) for each in spread):
        yield "topologySpreadConstraints do not choose its own pods"


def _scaling(spec: Object, objects: Sequence[Object]) -> Iterator[str]:
    target = spec["scaleTargetRef"]
    found = list(_targets(target, objects))
    if len(found) != 1:
        yield f"scaleTargetRef {target['kind']} {target['name']}: there are {len(found)}"
    for each in found:
        if "replicas" in each:
            yield f"{target['kind']} {target['name']} sets replicas itself"
    if any(trigger["type"] in {"cpu", "memory"} for trigger in spec["triggers"]):
        yield "scales by what does not say how long requests wait"
    behavior: dict[str, Any] = (
        spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
    )
    window = behavior.get("scaleDown", {}).get("stabilizationWindowSeconds", 0)
    if window < _SCALE_DOWN_S:
        yield f"scales down after {window} s, expected {_SCALE_DOWN_S} (the time to load) or more"
    if spec.get("minReplicaCount", 0) < 1:
        yield "minReplicaCount must be 1 or more: from none nothing asks for the first"


def _targets(target: Object, objects: Sequence[Object]) -> Iterator[Object]:
    """What has the replicas: a workload, or a graph's component with an adapter."""
    for each in objects:
        if each["kind"] == target["kind"] and each["metadata"]["name"] == target["name"]:
            yield each["spec"]
        if target["kind"] != "DynamoGraphDeploymentScalingAdapter":
            continue
        for component in each.get("spec", {}).get("components", []):
            adapter = f"{each['metadata']['name']}-{component['name'].lower()}"
            if adapter == target["name"] and "scalingAdapter" in component:
                yield component


def _resources(resources: Object) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for kind in ("cpu", "memory", "ephemeral-storage"):
        if kind not in requests or kind not in limits:
            yield f"{kind} must be requested and limited"
    if requests.get("memory") != limits.get("memory"):
        yield "memory must be requested as it is limited"
