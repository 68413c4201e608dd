"""Shape: every object against the closed schema of its kind, all errors at once.

Kubernetes' own kinds come from the package kubernetes-validate, per release; the others
from schemas/ beside this file, which are closed: a misspelt field is an error here,
where the API server would drop it silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

Object = dict[str, Any]

OLDEST, NEWEST = "1.30", "1.37"
"""Releases of Kubernetes that are supported; all between them are as well."""
_PACKAGED = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_OWN = Path(__file__).parent / "schemas"


def problems(each: Object, release: str) -> Iterator[str]:
    """What is wrong with the shape of an object."""
    name = f"{each.get('kind')}/{each.get('metadata', {}).get('name')}"
    try:
        validator = _validator(str(each.get("apiVersion")), str(each.get("kind")), release)
    except LookupError as error:
        yield f"{name}: {error}"
        return
    for error in validator.iter_errors(each):
        place = ".".join(map(str, error.absolute_path))
        yield f"{name}: {place}: {error.message[:200]}"


@cache
def _validator(api_version: str, kind: str, release: str) -> jsonschema.Draft7Validator:
    """Raises LookupError where there is no schema of a kind in a release."""
    group, _, version = api_version.rpartition("/")
    packaged = _PACKAGED / f"v{release}.0-local-strict"
    stem = (
        f"{kind.lower()}-{group.split('.')[0]}-{version}" if group else f"{kind.lower()}-{version}"
    )
    own = _OWN / f"{kind.lower()}-{group}-{version}.json"
    path = own if own.exists() else packaged / f"{stem}.json"
    if not path.exists():
        raise LookupError(f"no schema of {api_version} {kind} in Kubernetes {release}")
    return jsonschema.Draft7Validator(json.loads(path.read_text()), registry=_registry(release))


@cache
def _registry(release: str) -> Registry[Any]:
    path = _PACKAGED / f"v{release}.0-local-strict" / "_definitions.json"
    resource = Resource.from_contents(json.loads(path.read_text()), default_specification=DRAFT7)
    return Registry().with_resource("/api/_definitions.json", resource)
