"""Every pod that objects bring about, whatever kind of object makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

TEMPLATED = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template and where it stands."""

    owner: Object
    """The object that makes pods of it."""
    name: str
    """For messages: kind, name and, in a graph, component."""
    labels: dict[str, str]
    spec: Object
    replicas: int | None
    """None where somebody else decides, or none are meant."""
    component: Object | None = None
    """Of a DynamoGraphDeployment."""

    @property
    def containers(self) -> list[Object]:
        """All of them, those that initialise included."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]

    def matches(self, selector: Object) -> bool:
        """Whether a label selector, or a Service's plain map, chooses this pod."""
        return selects(selector, self.labels)


def pods_of(objects: Sequence[Object]) -> list[Pod]:
    """All pods of a rendering."""
    return [pod for each in objects for pod in _pods(each)]


def _pods(owner: Object) -> Iterator[Pod]:
    name = f"{owner['kind']}/{owner['metadata']['name']}"
    if owner["kind"] in TEMPLATED:
        template = owner["spec"]["template"]
        labels = template.get("metadata", {}).get("labels", {})
        yield Pod(owner, name, labels, template["spec"], owner["spec"].get("replicas"))
    if owner["kind"] == "DynamoGraphDeployment":
        for component in owner["spec"].get("components", []):
            template = component.get("podTemplate", {})
            yield Pod(
                owner,
                f"{name}[{component.get('name')}]",
                template.get("metadata", {}).get("labels", {}),
                template.get("spec", {}),
                component.get("replicas"),
                component,
            )


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector chooses something with these labels.

    Raises:
        ValueError: it uses an operator that is not known.
    """
    if not {"matchLabels", "matchExpressions"} & selector.keys() and selector:
        selector = {"matchLabels": selector}
    plain = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    return plain and all(_holds(e, labels) for e in selector.get("matchExpressions", []))


def _holds(expression: Object, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "Exists":
            return value is not None
        case other:
            raise ValueError(f"operator {other!r}: expected In or Exists")
