"""What Kubernetes does not let change once an object is there.

python -m k8s_validator.immutable > tests/golden/deploy_immutable.json     at a release
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from k8s_validator.overlays import OVERLAYS, rendered
from k8s_validator.pods import Object

_FIELDS = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "resources"),
    "Service": ("clusterIP",),
    "RoleBinding": ("roleRef",),
}

Frozen = dict[str, Any]


def frozen(objects: Sequence[Object]) -> Frozen:
    """The fields by object."""
    found: Frozen = {}
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        within = each if each["kind"] == "RoleBinding" else each.get("spec", {})
        if each["kind"] in _FIELDS:
            found[name] = {field: within.get(field) for field in _FIELDS[each["kind"]]}
        if each["kind"] == "DynamoGraphDeployment":
            found[name] = {c["name"]: c["type"] for c in each["spec"]["components"]}
    return found


def changes(before: Frozen, after: Frozen) -> list[str]:
    """Objects of both that an upgrade could not apply."""
    return [
        f"{name}: {field} was {value!r}, is {after[name].get(field)!r}"
        for name in sorted(before.keys() & after.keys())
        for field, value in before[name].items()
        if after[name].get(field) != value
    ]


if __name__ == "__main__":
    everything = {overlay: frozen(rendered(overlay)) for overlay in OVERLAYS}
    json.dump(everything, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
