"""One mistake per requirement, each found, and nothing else with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s_validator import (
    availability,
    command_lines,
    images,
    network,
    probes,
    references,
    schemas,
    security,
)
from k8s_validator.kustomization import Object
from k8s_validator.overlays import rendered
from k8s_validator.sample_secrets import sample_secrets

Plant = Callable[[Any], object]


def of(objects: list[Object], kind: str, name: str) -> Any:
    """The one object of a kind and name."""
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def pod(objects: list[Object], name: str = "worker", kind: str = "Deployment") -> Any:
    return of(objects, kind, name)["spec"]["template"]["spec"]


def main(objects: list[Object], name: str = "worker") -> Any:
    return pod(objects, name)["containers"][0]


def shapes(objects: list[Object]) -> Iterator[str]:
    for each in objects:
        yield from schemas.problems(each, schemas.OLDEST)


def commands(objects: list[Object], directory: Path) -> list[str]:
    found, refused = command_lines.started(objects, directory, sample_secrets())
    return refused + [p for each in found for p in command_lines.problems(each)]


def change_arg(objects: list[Object], old: str, new: str, name: str = "worker") -> None:
    args = main(objects, name)["args"]
    args[args.index(old)] = new


def config(objects: list[Object]) -> Any:
    (found,) = [o for o in objects if o["metadata"]["name"].startswith("worker-config")]
    return found["data"]


K = pytest.mark.parametrize

GRAPH_SHAPES: dict[str, tuple[Plant, str]] = {
    "K3 a misspelt field of a graph": (
        lambda graph: graph["spec"]["components"][1].update(sharedMemory="8Gi"),
        "'sharedMemory' was unexpected",
    ),
    "K3 a misspelt field of its pods": (
        lambda graph: graph["spec"]["components"][1]["podTemplate"]["spec"].update(tolerate=[]),
        "'tolerate' was unexpected",
    ),
    "K3 a type that does not exist": (
        lambda graph: graph["spec"]["components"][1].update(type="memory"),
        "'memory' is not one of",
    ),
    "K3 a container of another name": (
        lambda graph: graph["spec"]["components"][1]["podTemplate"]["spec"]["containers"][0].update(
            name="worker"
        ),
        "podTemplate.spec.containers: None of",
    ),
}


@K("plant, says", GRAPH_SHAPES.values(), ids=GRAPH_SHAPES)
def test_a_wrong_shape_of_a_graph_is_found(plant: Plant, says: str) -> None:
    objects = rendered("disaggregated-graph")
    plant(of(objects, "DynamoGraphDeployment", "llm"))
    (problem,) = shapes(objects)

    assert says in problem


def test_the_pods_of_a_graph_are_held_to_the_same() -> None:
    objects = rendered("disaggregated-graph")
    spec = of(objects, "DynamoGraphDeployment", "llm")["spec"]["components"][1]["podTemplate"][
        "spec"
    ]
    spec["hostNetwork"] = True
    (problem,) = security.problems(objects)

    assert problem == "DynamoGraphDeployment/llm[Prefill]: hostNetwork must not be set"


SHAPES: dict[str, tuple[Plant, str]] = {
    "K2 a misspelt field": (
        lambda o: main(o).update(readynessProbe={}),
        "'readynessProbe' was unexpected",
    ),
    "K2 a kind that nobody knows": (
        lambda o: o.append({"apiVersion": "example.com/v1", "kind": "Magic", "metadata": {}}),
        "no schema of example.com/v1 Magic",
    ),
    "K2 a wrong type": (
        lambda o: of(o, "Deployment", "worker")["spec"].update(replicas="two"),
        "'two' is not of type 'integer'",
    ),
}


@K("plant, says", SHAPES.values(), ids=SHAPES)
def test_a_wrong_shape_is_found(plant: Plant, says: str) -> None:
    objects = rendered("aggregated")
    plant(objects)
    (problem,) = shapes(objects)

    assert says in problem


CHECKED: dict[str, tuple[Any, Plant, str]] = {
    "K4 what is newest": (
        images,
        lambda o: main(o).update(image="registry.example.com/shepherd/trtllm:latest"),
        "expected a version or a digest",
    ),
    "K4 no version": (
        images,
        lambda o: main(o).update(image="registry.example.com:5000/shepherd"),
        "expected a version or a digest",
    ),
    "K5 killed while it loads": (
        probes,
        lambda o: main(o)["startupProbe"].update(failureThreshold=60),
        "startupProbe gives 600 s, expected 1800",
    ),
    "K5 no startup probe": (
        probes,
        lambda o: main(o, "frontend").pop("startupProbe"),
        "has no startupProbe",
    ),
    "K6 killed for one late answer": (
        probes,
        lambda o: main(o)["livenessProbe"].update(failureThreshold=1),
        "livenessProbe kills after 10 s",
    ),
    "K7 killed when not ready": (
        probes,
        lambda o: main(o)["livenessProbe"]["httpGet"].update(path="/health"),
        "is killed whenever it is not ready",
    ),
    "K10 no budget": (
        availability,
        lambda o: o.remove(of(o, "PodDisruptionBudget", "worker")),
        "0 PodDisruptionBudgets cover it",
    ),
    "K10 a budget that blocks": (
        availability,
        lambda o: of(o, "PodDisruptionBudget", "worker")["spec"].update(maxUnavailable=0),
        "it blocks every drain",
    ),
    "K11 all on one machine": (
        availability,
        lambda o: pod(o)["topologySpreadConstraints"].pop(0),
        "topologySpreadConstraints must be over",
    ),
    "K11 the spread of others": (
        availability,
        lambda o: pod(o)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(
            {"shepherd/role": "decode"}
        ),
        "do not choose its own pods",
    ),
    "K12 by what says nothing of waiting": (
        availability,
        lambda o: of(o, "ScaledObject", "aggregated")["spec"]["triggers"][0].update(type="cpu"),
        "scales by what does not say how long requests wait",
    ),
    "K12 gone before it has loaded": (
        availability,
        lambda o: of(o, "ScaledObject", "aggregated")["spec"]["advanced"][
            "horizontalPodAutoscalerConfig"
        ]["behavior"]["scaleDown"].update(stabilizationWindowSeconds=300),
        "scales down after 300 s, expected 1800",
    ),
    "K12 nobody left": (
        availability,
        lambda o: of(o, "ScaledObject", "aggregated")["spec"].update(minReplicaCount=0),
        "minReplicaCount must be 1 or more",
    ),
    "K13 a port that is not scraped": (
        references,
        lambda o: of(o, "PodMonitor", "worker")["spec"]["podMetricsEndpoints"][0].update(
            port="metrics"
        ),
        "has no port 'metrics'",
    ),
    "K20 a workload that is not there": (
        availability,
        lambda o: of(o, "ScaledObject", "aggregated")["spec"]["scaleTargetRef"].update(name="wrk"),
        "there are 0",
    ),
    "K21 two who decide": (
        availability,
        lambda o: of(o, "Deployment", "worker")["spec"].update(replicas=2),
        "sets replicas itself",
    ),
    "K14 no default": (
        network,
        lambda o: o.remove(of(o, "NetworkPolicy", "default-deny")),
        "none denies everything by default",
    ),
    "K14 open to everybody": (
        network,
        lambda o: of(o, "NetworkPolicy", "worker")["spec"]["ingress"][0].pop("from"),
        "a rule without from opens it to everybody",
    ),
    "K14 the metadata service": (
        network,
        lambda o: of(o, "NetworkPolicy", "discovery")["spec"]["egress"][0]["to"][0]["ipBlock"].pop(
            "except"
        ),
        "reaches the cloud's metadata service",
    ),
    "K15 a writable root": (
        security,
        lambda o: main(o)["securityContext"].update(readOnlyRootFilesystem=False),
        "readOnlyRootFilesystem must be true",
    ),
    "K15 root": (
        security,
        lambda o: pod(o)["securityContext"].update(runAsUser=0),
        "runAsUser must not be 0",
    ),
    "K15 a capability": (
        security,
        lambda o: main(o)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
        "capabilities.add must be empty",
    ),
    "K15 the machine's files": (
        security,
        lambda o: pod(o)["volumes"][2].update(hostPath={"path": "/"}),
        "hostPath is not allowed",
    ),
    "K16 memory that may be taken back": (
        availability,
        lambda o: main(o)["resources"]["requests"].update(memory="1Gi"),
        "memory must be requested as it is limited",
    ),
    "K16 a disk without limit": (
        availability,
        lambda o: main(o)["resources"]["limits"].pop("ephemeral-storage"),
        "ephemeral-storage must be requested and limited",
    ),
    "K18 a secret in a variable": (
        security,
        lambda o: main(o)["env"].append(
            {"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
        ),
        "secrets are files, not variables",
    ),
    "K18 a secret in clear": (
        security,
        lambda o: main(o)["env"].append({"name": "HF_TOKEN", "value": "hf_x"}),
        "looks like a secret in clear",
    ),
    "K19 a token for nothing": (
        security,
        lambda o: pod(o, "model-cache", "Job").update(automountServiceAccountToken=True),
        "automountServiceAccountToken must be false",
    ),
    "K19 more than is needed": (
        security,
        lambda o: of(o, "Role", "shepherd-discovery")["rules"][1]["verbs"].append("delete"),
        "['delete'] are not needed",
    ),
    "K19 less than is needed": (
        security,
        lambda o: of(o, "Role", "shepherd-discovery")["rules"][0]["verbs"].remove("patch"),
        "['patch'] are missing",
    ),
    "K20 a selector of nothing": (
        references,
        lambda o: of(o, "PodDisruptionBudget", "worker")["spec"]["selector"]["matchLabels"].update(
            {"app.kubernetes.io/component": "wroker"}
        ),
        "chooses no pod",
    ),
    "K20 a port that is not there": (
        references,
        lambda o: of(o, "Service", "frontend")["spec"]["ports"][0].update(targetPort="web"),
        "has no port 'web'",
    ),
    "K20 a claim that is not there": (
        references,
        lambda o: o.remove(of(o, "PersistentVolumeClaim", "models")) or main(o, "frontend"),
        "there is no PersistentVolumeClaim models",
    ),
    "K22 a configuration without a hash": (
        references,
        lambda o: pod(o)["volumes"][0]["configMap"].update(name="worker-config"),
        "there is no ConfigMap worker-config",
    ),
}


@K("check, plant, says", CHECKED.values(), ids=CHECKED)
def test_a_mistake_is_found(check: Any, plant: Plant, says: str) -> None:
    objects = rendered("aggregated")
    plant(objects)
    problems = list(check.problems(objects))

    assert problems
    assert all(says in problem for problem in problems), problems


RUNNING: dict[str, tuple[str, Plant, str]] = {
    "K8 cut off while it drains": (
        "aggregated",
        lambda o: pod(o).update(terminationGracePeriodSeconds=60),
        "terminationGracePeriodSeconds is 60, its drain may take 105",
    ),
    "K9 handoffs that nobody waits for": (
        "disaggregated",
        lambda o: config(o).update(
            {"worker.toml": "[worker]\nhealth_probe=true\ndrain_timeout_s=9"}
        ),
        "drains for less than a handoff may wait",
    ),
    "K7 ready without proof": (
        "aggregated",
        lambda o: config(o).update({"worker.toml": "[worker]\nhealth_probe=false"}),
        "is ready before its engine has proven itself",
    ),
    "K17 downloads at start": (
        "aggregated",
        lambda o: main(o).update(env=[e for e in main(o)["env"] if e["name"] != "HF_HUB_OFFLINE"]),
        "may download at start",
    ),
    "K17 writes to the models": (
        "aggregated",
        lambda o: main(o)["volumeMounts"][1].pop("readOnly"),
        "mounts models for writing",
    ),
    "a flag that does not exist": (
        "aggregated",
        lambda o: change_arg(o, "--role=aggregated", "--rolle=aggregated"),
        "--rolle",
    ),
    "a value that does not exist": (
        "aggregated",
        lambda o: change_arg(o, "--role=aggregated", "--role=encoder"),
        "encoder",
    ),
    "a key of the file that does not exist": (
        "aggregated",
        lambda o: config(o).update({"worker.toml": "[worker]\nmax_wating = 1"}),
        "max_wating",
    ),
    "a variable that does not exist": (
        "aggregated",
        lambda o: change_arg(o, "--host=$(POD_IP)", "--host=$(POD_IPS)"),
        "there is no such variable",
    ),
    "a listener that nobody reaches": (
        "aggregated",
        lambda o: change_arg(o, "--host=$(POD_IP)", "--host=127.0.0.1"),
        "where neither frontends nor probes reach it",
    ),
    "another port than the probe's": (
        "aggregated",
        lambda o: change_arg(o, "--system-port=9090", "--system-port=9091"),
        "its status server is on 9091",
    ),
    "KV beyond the machine without a secret": (
        "disaggregated",
        lambda o: main(o, "worker-prefill")["args"].remove(
            "--transfer-secret-file=/run/secrets/transfer/secret"
        ),
        "--transfer-secret-file",
    ),
    "a flag that Dynamo's frontend does not have": (
        "aggregated",
        lambda o: change_arg(o, "--router-mode=kv", "--routing-mode=kv", "frontend"),
        "--routing-mode",
    ),
}


@K("overlay, plant, says", RUNNING.values(), ids=RUNNING)
def test_a_program_or_its_pod_is_wrong(
    overlay: str, plant: Plant, says: str, tmp_path: Path
) -> None:
    objects = rendered(overlay)
    plant(objects)
    problems = commands(objects, tmp_path)

    assert problems
    assert all(says in problem for problem in problems), problems
