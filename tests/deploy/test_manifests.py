"""Every overlay of deploy/k8s, rendered and judged without a cluster."""

from __future__ import annotations

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
from k8s_validator.overlays import K8S
from k8s_validator.sample_secrets import sample_secrets


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
