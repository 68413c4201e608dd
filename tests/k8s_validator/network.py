"""Who may talk to whom: everything is shut, and opened for named peers only."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from k8s_validator.pods import Object, Pod, pods_of

_METADATA = [ipaddress.ip_address("169.254.169.254"), ipaddress.ip_address("fd00:ec2::254")]
_BOTH = {"Ingress", "Egress"}


def problems(objects: Sequence[Object]) -> Iterator[str]:
    """What is open and should not be."""
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    if not any(_denies_all(policy["spec"]) for policy in policies):
        yield "NetworkPolicy: none denies everything by default, both ways"
    for policy in policies:
        name = f"NetworkPolicy/{policy['metadata']['name']}"
        yield from (f"{name}: {each}" for each in _policy(policy["spec"]))
    for pod in pods_of(objects):
        yield from (f"{pod.name}: {each}" for each in _is_open(pod, policies))


def _denies_all(spec: Object) -> bool:
    rules = spec.get("ingress") or spec.get("egress")
    return spec["podSelector"] == {} and set(spec["policyTypes"]) == _BOTH and not rules


def _policy(spec: Object) -> Iterator[str]:
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            if not rule.get(peers):
                yield f"{direction}: a rule without {peers} opens it to everybody"
            if not rule.get("ports"):
                yield f"{direction}: a rule without ports opens all of them"
            for peer in rule.get(peers, []):
                yield from _peer(peer)


def _peer(peer: Object) -> Iterator[str]:
    if peer.get("podSelector") == {} or peer.get("namespaceSelector") == {}:
        yield "an empty selector chooses everybody"
    if "ipBlock" in peer:
        block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        spared = [ipaddress.ip_network(each) for each in peer["ipBlock"].get("except", [])]
        for address in _METADATA:
            if address in block and not any(address in each for each in spared):
                yield f"reaches the cloud's metadata service at {address}"


def _is_open(pod: Pod, policies: Sequence[Object]) -> Iterator[str]:
    """A pod that serves must say to whom; a Service without callers is a mistake."""
    if not any(container.get("ports") for container in pod.containers):
        return
    letting_in = [p for p in policies if p["spec"].get("ingress")]
    if not any(pod.matches(p["spec"]["podSelector"]) for p in letting_in):
        yield "has ports, and no NetworkPolicy lets anybody in"
