"""Names that point at other things: each must point at something that is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from k8s_validator.pods import Object, Pod, pods_of, selects
from k8s_validator.sample_secrets import sample_secrets


def problems(objects: Sequence[Object]) -> Iterator[str]:
    """References to nothing, selectors that choose nothing, ports that no container has."""
    pods = pods_of(objects)
    for pod in pods:
        yield from (f"{pod.name}: {each}" for each in _volumes(pod, objects))
        yield from (f"{pod.name}: {each}" for each in _probes(pod))
        yield from (f"{pod.name}: {each}" for each in _account(pod, objects))
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        yield from (f"{name}: {problem}" for problem in _selector(each, pods))
        yield from (f"{name}: {problem}" for problem in _own_pods(each))


def _names(objects: Sequence[Object], kind: str) -> set[str]:
    return {o["metadata"]["name"] for o in objects if o["kind"] == kind}


def _volumes(pod: Pod, objects: Sequence[Object]) -> Iterator[str]:
    claims = {t["metadata"]["name"] for t in pod.owner["spec"].get("volumeClaimTemplates", [])}
    known = {v["name"] for v in pod.spec.get("volumes", [])} | claims
    mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
    yield from (f"volumeMount {name}: there is no such volume" for name in sorted(mounted - known))
    yield from (f"volume {name}: nobody mounts it" for name in sorted(known - mounted))
    for volume in pod.spec.get("volumes", []):
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            yield from (f"volume {volume['name']}: {p}" for p in _source(source, objects))


def _source(source: Object, objects: Sequence[Object]) -> Iterator[str]:
    if "configMap" in source:
        name = source["configMap"]["name"]
        if name not in _names(objects, "ConfigMap"):
            yield f"there is no ConfigMap {name}"
    if "persistentVolumeClaim" in source:
        name = source["persistentVolumeClaim"]["claimName"]
        if name not in _names(objects, "PersistentVolumeClaim"):
            yield f"there is no PersistentVolumeClaim {name}"
    if "secret" in source:
        name = source["secret"].get("secretName") or source["secret"].get("name")
        keys = {item["key"] for item in source["secret"].get("items", [])}
        made = sample_secrets().get(name, {}).keys()
        if not made:
            yield f"Secret {name} is not among those that the script makes"
        elif not keys or keys - made:
            yield f"Secret {name}: expected items of {sorted(made)}, got {sorted(keys)}"


def _probes(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        ports = container.get("ports", [])
        known = {p.get("name") for p in ports} | {p["containerPort"] for p in ports}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for how in ("httpGet", "tcpSocket"):
                if how in container.get(probe, {}) and container[probe][how]["port"] not in known:
                    yield f"{probe}: there is no port {container[probe][how]['port']!r}"


def _account(pod: Pod, objects: Sequence[Object]) -> Iterator[str]:
    account = pod.spec.get("serviceAccountName")
    if account and account not in _names(objects, "ServiceAccount"):
        yield f"there is no ServiceAccount {account}"


def _selector(each: Object, pods: Sequence[Pod]) -> Iterator[str]:
    spec = each.get("spec", {})
    match each["kind"]:
        case "Service":
            yield from _service(spec, pods)
        case "PodDisruptionBudget":
            yield from _some(spec["selector"], pods)
        case "PodMonitor":
            yield from _pod_monitor(spec, pods)
        case "NetworkPolicy":
            yield from _some(spec["podSelector"], pods)
            yield from _policy(spec, pods)


def _some(selector: Object, pods: Sequence[Pod]) -> Iterator[str]:
    if not any(pod.matches(selector) for pod in pods):
        yield f"selector {selector} chooses no pod"


def _service(spec: Object, pods: Sequence[Pod]) -> Iterator[str]:
    yield from _some(spec["selector"], pods)
    for pod in pods:
        if pod.matches(spec["selector"]):
            for port in spec["ports"]:
                yield from _port(port.get("targetPort", port["port"]), pod)


def _pod_monitor(spec: Object, pods: Sequence[Pod]) -> Iterator[str]:
    yield from _some(spec["selector"], pods)
    for pod in pods:
        if pod.matches(spec["selector"]):
            for endpoint in spec["podMetricsEndpoints"]:
                yield from _port(endpoint["port"], pod)


def _policy(spec: Object, pods: Sequence[Pod]) -> Iterator[str]:
    chosen = [pod for pod in pods if pod.matches(spec["podSelector"])]
    for rule in spec.get("ingress", []):
        yield from _peers(rule.get("from", []), pods)
        for port in rule.get("ports", []):
            for pod in chosen:
                yield from _named_port(port, pod)
    for rule in spec.get("egress", []):
        yield from _peers(rule.get("to", []), pods)
        inside = [p for p in rule.get("to", []) if "namespaceSelector" not in p]
        for peer in (p["podSelector"] for p in inside if "podSelector" in p):
            for pod in (pod for pod in pods if pod.matches(peer)):
                for port in rule.get("ports", []):
                    yield from _named_port(port, pod)


def _peers(peers: Sequence[Object], pods: Sequence[Pod]) -> Iterator[str]:
    for peer in peers:
        if "podSelector" in peer and "namespaceSelector" not in peer:
            yield from _some(peer["podSelector"], pods)


def _named_port(port: Object, pod: Pod) -> Iterator[str]:
    if isinstance(port.get("port"), str):
        yield from _port(port["port"], pod)


def _port(wanted: str | int, pod: Pod) -> Iterator[str]:
    ports = [port for container in pod.containers for port in container.get("ports", [])]
    if not any(wanted in {port.get("name"), port["containerPort"]} for port in ports):
        yield f"{pod.name} has no port {wanted!r}"


def _own_pods(each: Object) -> Iterator[str]:
    """A workload must select the pods that it makes."""
    if each["kind"] not in {"Deployment", "StatefulSet"}:
        return
    labels = each["spec"]["template"]["metadata"]["labels"]
    if not selects(each["spec"]["selector"], labels):
        yield "its selector does not choose its own pods"
