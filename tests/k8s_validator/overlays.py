"""Renderings of deploy/k8s, each made once."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

from k8s_validator.kustomization import Object, render

K8S = Path(__file__).parents[2] / "deploy" / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))


@cache
def _rendered(overlay: str) -> list[Object]:
    return render(K8S / "overlays" / overlay)


def rendered(overlay: str) -> list[Object]:
    """An overlay's objects, to be changed at will."""
    return copy.deepcopy(_rendered(overlay))
