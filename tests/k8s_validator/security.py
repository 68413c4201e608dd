"""Pod Security's level "restricted" and what goes beyond it, for every pod, those of graphs included."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from k8s_validator.pods import Object, Pod, pods_of

_SECRET_NAME = re.compile(r"(PASSWORD|TOKEN|SECRET|API_KEY|NKEY|CREDENTIAL)S?$")
_READERS = {"get", "list", "watch"}
_DISCOVERY = {
    "dynamoworkermetadatas": {"create", "delete", "get", "list", "patch", "watch"},
    "endpointslices": _READERS,
}
"""What Dynamo's discovery does; more is too much."""


def problems(objects: Sequence[Object]) -> Iterator[str]:
    """Everything that could be locked and is not."""
    for pod in pods_of(objects):
        yield from (f"{pod.name}: {each}" for each in _pod(pod))
        for container in pod.containers:
            yield from (f"{pod.name}: {container['name']}: {p}" for p in _container(container, pod))
    yield from _roles(objects)


def _pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} must not be set"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume {volume['name']}: hostPath is not allowed"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']}: emptyDir without sizeLimit"
        if "secret" in volume and volume["secret"].get("defaultMode", 0o644) & 0o077:
            yield f"volume {volume['name']}: a secret's defaultMode must be 0400"
    context = spec.get("securityContext", {})
    if context.get("runAsUser") == 0:
        yield "runAsUser must not be 0"
    if any("secret" in v for v in spec.get("volumes", [])) and "fsGroup" not in context:
        yield "fsGroup must be set: secret files are root's"
    yield from _token(pod)


def _token(pod: Pod) -> Iterator[str]:
    if pod.component is not None:  # the operator decides
        return
    mounts = pod.spec.get("automountServiceAccountToken")
    discovers = pod.labels.get("shepherd/discovers") == "true"
    if mounts is None or (mounts and not discovers):
        yield "automountServiceAccountToken must be false where nothing is discovered"
    if discovers and not mounts:
        yield "discovers, and has no token for the API server"


def _container(container: Object, pod: Pod) -> Iterator[str]:
    own, whole = container.get("securityContext", {}), pod.spec.get("securityContext", {})
    seccomp = own.get("seccompProfile") or whole.get("seccompProfile") or {}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation must be false"
    if not own.get("runAsNonRoot", whole.get("runAsNonRoot")):
        yield "runAsNonRoot must be true"
    if seccomp.get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile must be RuntimeDefault or Localhost"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield "capabilities.drop must hold ALL"
    if own.get("capabilities", {}).get("add"):
        yield "capabilities.add must be empty"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem must be true"
    if not any(m["mountPath"] == "/tmp" for m in container.get("volumeMounts", [])):
        yield "/tmp must be a volume: the root file system is read-only"
    yield from _secrets(container)


def _secrets(container: Object) -> Iterator[str]:
    for each in container.get("env", []):
        if "secretKeyRef" in each.get("valueFrom", {}):
            yield f"env {each['name']}: secrets are files, not variables"
        if each.get("value") and _SECRET_NAME.search(each["name"]):
            yield f"env {each['name']}: looks like a secret in clear"
    for each in container.get("envFrom", []):
        if "secretRef" in each:
            yield "envFrom: secrets are files, not variables"


def _roles(objects: Sequence[Object]) -> Iterator[str]:
    for each in objects:
        if each["kind"] in {"ClusterRole", "ClusterRoleBinding"}:
            yield f"{each['kind']}/{each['metadata']['name']}: a Role is enough"
        for rule in each.get("rules", []) if each["kind"] == "Role" else []:
            yield from (f"Role/{each['metadata']['name']}: {p}" for p in _rule(rule))


def _rule(rule: dict[str, Any]) -> Iterator[str]:
    for resource in rule["resources"]:
        allowed = _DISCOVERY.get(resource, set())
        if extra := set(rule["verbs"]) - allowed:
            yield f"{resource}: {sorted(extra)} are not needed"
        if missing := allowed - set(rule["verbs"]):
            yield f"{resource}: {sorted(missing)} are missing"
