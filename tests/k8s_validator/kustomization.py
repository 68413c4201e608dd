"""The part of kustomize that deploy/k8s uses, for machines without kubectl.

Knows `resources`, `components`, `patches` (JSON 6902), `configMapGenerator` (files,
with the hash in the name), `images`, `labels`, `namespace` and `nameSuffix`.  Says
no to everything else rather than leave it out.  What it makes equals what kubectl
makes; a test compares the two where there is a kubectl.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
_HEADER = {"apiVersion", "kind"}
_HASH_LETTERS = str.maketrans("013ae", "ghkmt")
"""kustomize writes these digits of a hash otherwise, so that no word comes of it."""
_WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
_ORIGINAL = "config.kubernetes.io/original-name"
"""Set while rendering on objects whose names get a hash; never in the result."""


class UnsupportedError(Exception):
    """A kustomization asks for something that this reader does not know."""


def render(directory: Path) -> list[Object]:
    """All objects of a kustomization, as they would be applied.

    Raises:
        UnsupportedError: it needs more of kustomize than is known here.
    """
    objects = _accumulate(directory, [])
    renamed = {}
    for each in objects:
        if each["metadata"].get("annotations", {}).pop(_ORIGINAL, None):
            each["metadata"].pop("annotations")
            original = each["metadata"]["name"]
            each["metadata"]["name"] = renamed[original] = f"{original}-{_hash(each)}"
    for each in objects:
        _rename_config_maps(each, renamed)
    return objects


def _accumulate(directory: Path, objects: list[Object]) -> list[Object]:
    """What a kustomization makes of `objects` and its own."""
    path = directory / "kustomization.yaml"
    wanted = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k not in _HEADER}
    if unknown := wanted.keys() - _STEPS.keys():
        raise UnsupportedError(f"{path}: {sorted(unknown)}; known are {sorted(_STEPS)}")
    for field, step in _STEPS.items():
        if field in wanted:
            objects = step(objects, wanted[field], directory)
    return objects


def _resources(objects: list[Object], names: list[str], directory: Path) -> list[Object]:
    for name in names:
        path = directory / name
        if path.is_dir():
            objects = objects + _accumulate(path.resolve(), [])
        else:
            objects = objects + [each for each in yaml.safe_load_all(path.read_text()) if each]
    places = [(o["apiVersion"], o["kind"], o["metadata"]["name"]) for o in objects]
    if twice := {place for place in places if places.count(place) > 1}:
        raise UnsupportedError(f"{directory}: there are two of {sorted(twice)}")
    return copy.deepcopy(objects)  # YAML's aliases are one object in several places


def _config_maps(objects: list[Object], wanted: list[Object], directory: Path) -> list[Object]:
    for each in wanted:
        _only(each, {"name", "files"}, directory)
        made: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": each["name"], "annotations": {_ORIGINAL: each["name"]}},
            "data": {Path(name).name: (directory / name).read_text() for name in each["files"]},
        }
        objects = [*objects, made]
    return objects


def _components(objects: list[Object], names: list[str], directory: Path) -> list[Object]:
    for name in names:
        objects = _accumulate((directory / name).resolve(), objects)
    return objects


def _namespace(objects: list[Object], namespace: str, _: Path) -> list[Object]:
    for each in objects:
        if each["kind"] not in CLUSTER_WIDE:
            each["metadata"]["namespace"] = namespace
        for subject in each.get("subjects", []):
            subject["namespace"] = namespace
    return objects


def _name_suffix(objects: list[Object], suffix: str, directory: Path) -> list[Object]:
    for each in objects:
        if each["kind"] not in _WORKLOADS:
            raise UnsupportedError(f"{directory}: nameSuffix of {each['kind']}, workloads only")
        each["metadata"]["name"] += suffix
    return objects


def _labels(objects: list[Object], wanted: list[Object], directory: Path) -> list[Object]:
    for each in wanted:
        _only(each, {"pairs"}, directory)
        for labelled in objects:
            labelled["metadata"].setdefault("labels", {}).update(each["pairs"])
    return objects


def _images(objects: list[Object], wanted: list[Object], directory: Path) -> list[Object]:
    for each in wanted:
        _only(each, {"name", "newName", "newTag", "digest"}, directory)
        name = each.get("newName", each["name"])
        new = f"{name}@{each['digest']}" if "digest" in each else f"{name}:{each['newTag']}"
        for container in (c for o in objects for c in _containers(o)):
            if container.get("image") == each["name"]:
                container["image"] = new
    return objects


def _patches(objects: list[Object], wanted: list[Object], directory: Path) -> list[Object]:
    for each in wanted:
        _only(each, {"path", "target"}, directory)
        _only(each["target"], {"kind", "name"}, directory)
        operations = yaml.safe_load((directory / each["path"]).read_text())
        found = [
            o
            for o in objects
            if o["kind"] == each["target"]["kind"]
            and each["target"].get("name") in {None, o["metadata"]["name"]}
        ]
        if not found:
            raise UnsupportedError(f"{directory}: no {each['target']} to patch")
        for patched in found:
            for operation in operations:
                _apply(patched, operation)
    return objects


def _apply(document: Object, operation: Object) -> None:
    """One operation of RFC 6902: add, replace or remove."""
    *parents, last = [
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    ]
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    value = copy.deepcopy(operation.get("value"))
    key = int(last) if isinstance(place, list) and last != "-" else last
    match operation["op"]:
        case "add" if isinstance(place, list):
            place.insert(len(place) if key == "-" else int(key), value)
        case "add":
            place[key] = value
        case "replace":
            _ = place[key]
            place[key] = value
        case "remove":
            del place[key]
        case other:
            raise UnsupportedError(f"patches: {other!r}; known are add, replace, remove")


def _containers(value: object) -> Iterator[Object]:
    """Every container, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"containers", "initContainers"}:
                yield from inner
            yield from _containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _containers(inner)


def _rename_config_maps(value: object, renamed: dict[str, str]) -> None:
    """Volumes' references, in graphs as well: for kubectl `names.yaml` says where."""
    if isinstance(value, dict):
        if isinstance(source := value.get("configMap"), dict) and "name" in source:
            source["name"] = renamed.get(source["name"], source["name"])
        for inner in value.values():
            _rename_config_maps(inner, renamed)
    elif isinstance(value, list):
        for inner in value:
            _rename_config_maps(inner, renamed)


def _hash(config_map: Object) -> str:
    """As kustomize has it: of the data alone, the name is left empty."""
    said = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    for char in "<>&":  # as Go writes JSON
        text = text.replace(char, f"\\u{ord(char):04x}")
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(_HASH_LETTERS)


def _only(given: Object, known: set[str], directory: Path) -> None:
    if unknown := given.keys() - known:
        raise UnsupportedError(f"{directory}: {sorted(unknown)}; known are {sorted(known)}")


_Step = Callable[[list[Object], Any, Path], list[Object]]
_STEPS: dict[str, _Step] = {
    "resources": _resources,
    "configMapGenerator": _config_maps,
    "components": _components,
    "configurations": lambda objects, *_: objects,
    "patches": _patches,
    "namespace": _namespace,
    "nameSuffix": _name_suffix,
    "labels": _labels,
    "images": _images,
}
"""In kustomize's order."""
