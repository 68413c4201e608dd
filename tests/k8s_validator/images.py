"""Images: named by what they are, never by what is newest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from k8s_validator.pods import Object, pods_of


def problems(objects: Sequence[Object], *, pinned: bool = False) -> Iterator[str]:
    """Images that may change behind one's back; with `pinned`, all that are not digests."""
    for pod in pods_of(objects):
        for container in pod.containers:
            image = container["image"]
            name, _, digest = image.partition("@")
            tag = name.rpartition("/")[2].partition(":")[2]
            if digest.startswith("sha256:"):
                continue
            if tag in {"", "latest"}:
                yield f"{pod.name}: {image}: expected a version or a digest"
            elif pinned:
                yield f"{pod.name}: {image}: expected a digest"
