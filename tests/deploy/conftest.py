from __future__ import annotations

import pytest

from k8s_validator.kustomization import Object
from k8s_validator.overlays import OVERLAYS, rendered


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def objects(overlay: str) -> list[Object]:
    return rendered(overlay)
