"""Every overlay of deploy/k8s, rendered and judged without a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

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
from k8s_validator.kustomization import Object, UnsupportedError, render
from k8s_validator.overlays import K8S, rendered
from k8s_validator.pods import pods_of
from k8s_validator.sample_secrets import sample_secrets
from nats_broker import _executable as nats_server
from shepherd_memory.metrics import Metrics
from shepherd_worker.engine_metrics import _ENGINE_GAUGES


@pytest.mark.parametrize("release", [schemas.OLDEST, schemas.NEWEST])
def test_every_object_has_the_shape_of_its_kind(objects: list[Object], release: str) -> None:
    assert [p for each in objects for p in schemas.problems(each, release)] == []


@pytest.mark.parametrize(
    "check",
    [availability, images, network, probes, references, security],
    ids=lambda check: check.__name__.rpartition(".")[2],
)
def test_nothing_is_wrong_with(objects: list[Object], check: object) -> None:
    assert list(check.problems(objects)) == []  # type: ignore[attr-defined]


def test_programs_accept_their_command_lines_and_their_pods_fit(
    objects: list[Object], tmp_path: Path
) -> None:
    found, refused = command_lines.started(objects, tmp_path, sample_secrets())

    assert refused == []
    assert [p for each in found for p in command_lines.problems(each)] == []
    assert {each.program for each in found} >= {"dynamo.frontend", "shepherd_worker"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl to compare with")
def test_our_reader_renders_what_kubectl_renders(overlay: str, objects: list[Object]) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = list(yaml.safe_load_all(done.stdout))

    assert _by_name(objects) == _by_name(theirs)


def _by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


@pytest.mark.parametrize(
    "asked",
    ["helmCharts: []", "resources: [{}]\nnamePrefix: p-", "images: [{name: a, newSuffix: b}]"],
)
def test_what_the_reader_does_not_know_is_refused(tmp_path: Path, asked: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(asked)
    with pytest.raises(UnsupportedError):
        render(tmp_path)


SCRAPED = {
    *(f"shepherd_worker_{name}" for name, *_ in _ENGINE_GAUGES),
    *(family.name for family in Metrics().registry.collect()),
}


def test_workers_are_scaled_by_metrics_that_they_have(objects: list[Object]) -> None:
    queries = [
        trigger["metadata"]["query"]
        for each in objects
        if each["kind"] == "ScaledObject"
        for trigger in each["spec"]["triggers"]
    ]

    assert {
        name for query in queries for name in re.findall(r"shepherd_\w+(?=\{)", query)
    } <= SCRAPED


def test_workers_are_scaled_by_the_roles_that_their_pods_have(objects: list[Object]) -> None:
    asked = {
        role
        for each in objects
        if each["kind"] == "ScaledObject"
        for trigger in each["spec"]["triggers"]
        for role in re.findall(r'shepherd_role="(\w+)"', trigger["metadata"]["query"])
    }

    assert asked <= {pod.labels.get("shepherd/role") for pod in pods_of(objects)}


def test_a_real_broker_accepts_its_configuration(tmp_path: Path) -> None:
    objects = rendered("memory")
    (nats,) = [pod for pod in pods_of(objects) if pod.name == "StatefulSet/nats"]
    volumes = command_lines.Volumes(objects, nats, nats.containers[0], tmp_path, sample_secrets())
    file = Path(volumes.moved("/etc/nats/nats.conf"))
    file.write_text(volumes.moved(file.read_text()))
    done = subprocess.run(
        [str(nats_server()), "-t", "-c", str(file)],
        env={"POD_NAME": "nats-0"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "is valid" in done.stderr + done.stdout, done.stderr
    assert done.returncode == 0


def test_streams_are_kept_by_as_many_brokers_as_there_are(tmp_path: Path) -> None:
    objects = rendered("memory")
    found, _ = command_lines.started(objects, tmp_path, sample_secrets())
    (brokers,) = [pod.replicas for pod in pods_of(objects) if pod.name == "StatefulSet/nats"]
    workers = [each.config for each in found if each.program == "shepherd_worker"]

    assert {config.kv_events_replicas for config in workers} == {brokers}
    assert {config.privacy.value for config in workers} == {"encrypted"}
    assert {config.kv_events_endpoint for config in workers} == {"nats://nats:4222"}
