"""A new version of the manifests can be applied over the last one."""

from __future__ import annotations

import json
from pathlib import Path

from k8s_validator.immutable import changes, frozen
from k8s_validator.kustomization import Object
from k8s_validator.overlays import rendered

RELEASED = Path(__file__).parents[1] / "golden" / "deploy_immutable.json"


def test_no_field_that_cannot_change_differs_from_the_last_release(
    overlay: str, objects: list[Object]
) -> None:
    before = json.loads(RELEASED.read_text())

    assert changes(before.get(overlay, {}), frozen(objects)) == []


def test_a_selector_a_claim_and_a_components_type_that_change_are_found() -> None:
    before, after = rendered("memory-graph"), rendered("memory-graph")
    named = {
        (each["kind"], each["metadata"]["name"]): each["spec"] for each in after if "spec" in each
    }
    named["Deployment", "gateway"]["selector"]["matchLabels"]["version"] = "2"
    named["StatefulSet", "nats"]["volumeClaimTemplates"][0]["spec"]["resources"] = {}
    named["DynamoGraphDeployment", "llm"]["components"][1]["type"] = "worker"
    found = changes(frozen(before), frozen(after))

    assert [problem.partition(" was")[0] for problem in found] == [
        "Deployment/gateway: selector",
        "DynamoGraphDeployment/llm: Prefill",
        "StatefulSet/nats: volumeClaimTemplates",
    ]


def test_changed_configuration_gets_another_name() -> None:
    names = {
        each["metadata"]["name"]
        for overlay in ("aggregated", "memory")
        for each in rendered(overlay)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("worker-config-")
    }

    assert len(names) == 2
