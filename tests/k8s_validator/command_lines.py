"""What containers run, parsed by the programs themselves with the files that the pod would give them.

Each volume becomes a directory, ConfigMaps with their files, Secrets with files that
`sample_secrets` makes, and the paths in the command line are moved there.  What a
program's own `--check` refuses is a problem, and so is a pod that does not fit what
the program says it will do: its ports, its grace, its caches.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from k8s_validator.pods import Object, Pod, pods_of
from shepherd_config import OptionError
from shepherd_memory.config import load_config as load_memory
from shepherd_tiny_chat import MODEL_DIR
from shepherd_worker.config import load_config as load_worker
from shepherd_worker.errors import StartError
from shepherd_worker.worker import CUT_TIMEOUT_S

POD_FIELDS = {
    "status.podIP": "10.1.2.3",
    "metadata.name": "worker-0",
    "metadata.namespace": "shepherd",
    "metadata.uid": "6ac4e1a2-0000-4000-8000-000000000000",
}
OPERATOR_ENV = {
    "DYN_DISCOVERY_BACKEND": "kubernetes",
    "DYN_SYSTEM_PORT": "9090",
    "POD_NAME": "worker-0",
    "POD_NAMESPACE": "shepherd",
    "POD_UID": POD_FIELDS["metadata.uid"],
}
"""What Dynamo's operator adds to a component's main container."""
STREAM_CLOSE_S = 5.0
"""`KvEventPublisher.close` waits so long for what has not been sent."""
DYNAMO_CLEANUP_S = 30.0
"""How long Dynamo's runtime may take to end what it serves."""
IN_THE_IMAGE = {"/opt/shepherd/tiny-chat": MODEL_DIR}
"""Directories that deploy/Containerfile.cpu makes."""
_LAUNCHERS = ("trtllm-llmapi-launch",)

Loader = Callable[[Sequence[str], Mapping[str, str]], Any]
_PROGRAMS: dict[str, Loader] = {"shepherd_worker": load_worker, "shepherd_memory": load_memory}
if importlib.util.find_spec("shepherd_gateway.config") is not None:
    _PROGRAMS["shepherd_gateway"] = importlib.import_module("shepherd_gateway.config").load_config


@dataclass(frozen=True, slots=True)
class Started:
    """A container as it would start."""

    pod: Pod
    container: Object
    program: str
    config: Any
    """What the program made of its options; None for Dynamo's frontend."""
    environ: dict[str, str]


def started(
    objects: Sequence[Object], directory: Path, secrets: Mapping[str, Mapping[str, bytes]]
) -> tuple[list[Started], list[str]]:
    """Every container with its configuration, and what could not be parsed."""
    found: list[Started] = []
    refused: list[str] = []
    for number, pod in enumerate(pods_of(objects)):
        for container in pod.containers:
            name = f"{pod.name}: {container['name']}"
            place = directory / str(number) / container["name"]
            try:
                each = _start(pod, container, Volumes(objects, pod, container, place, secrets))
            except (OptionError, StartError, ValueError) as error:
                refused.append(f"{name}: {error}")
                continue
            if each is not None:
                found.append(each)
    return found, refused


def problems(each: Started) -> Iterator[str]:
    """What a container's options and its pod do not agree on."""
    name = f"{each.pod.name}: {each.container['name']}"
    if each.program == "shepherd_worker":
        yield from (f"{name}: {problem}" for problem in _worker(each))
    if each.program in {"shepherd_memory", "shepherd_gateway"}:
        ports = {p["name"]: p["containerPort"] for p in each.container.get("ports", [])}
        wanted = {"http": each.config.http_port, "admin": each.config.admin_port}
        if {key: ports.get(key) for key in wanted} != wanted:
            yield f"{name}: listens on {wanted}, its ports are {ports}"


class Volumes:
    """A container's files, in a directory of this machine."""

    def __init__(
        self,
        objects: Sequence[Object],
        pod: Pod,
        container: Object,
        place: Path,
        secrets: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        self._objects, self._secrets = objects, secrets
        self._moved: dict[str, Path] = dict(IN_THE_IMAGE)
        volumes = {v["name"]: v for v in pod.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            target = place / mount["mountPath"].strip("/").replace("/", "-")
            target.mkdir(parents=True, exist_ok=True)
            self._moved[mount["mountPath"]] = target
            self._fill(volumes.get(mount["name"], {}), target)
        self._move_within_files()

    def moved(self, text: str) -> str:
        """A text with this machine's paths for the pod's."""
        longest_first = sorted(map(re.escape, self._moved), key=len, reverse=True)
        paths = re.compile(rf"(?<![\w/.-])({'|'.join(longest_first)})(?=/|$|\")")
        return paths.sub(lambda found: str(self._moved[found[1]]), text)

    def make_model(self, path: str) -> None:
        """A directory where a model would be."""
        if path.startswith(tuple(map(str, self._moved.values()))):
            Path(path).mkdir(parents=True, exist_ok=True)

    def _fill(self, volume: Object, target: Path) -> None:
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "configMap" in source:
                for each in self._objects:
                    at = (each["kind"], each["metadata"]["name"])
                    if at == ("ConfigMap", source["configMap"]["name"]):
                        for key, text in each["data"].items():
                            (target / key).write_text(text)
            if "secret" in source:
                secret = source["secret"]
                files = self._secrets.get(secret.get("secretName") or secret["name"], {})
                for item in secret.get("items", []):
                    path = target / item["path"]
                    path.write_bytes(files.get(item["key"], b""))
                    path.chmod(0o400)

    def _move_within_files(self) -> None:
        for target in set(self._moved.values()) - set(IN_THE_IMAGE.values()):
            for path in target.glob("*.toml"):
                path.write_text(self.moved(path.read_text()))


def _start(pod: Pod, container: Object, volumes: Volumes) -> Started | None:
    environ = dict(OPERATOR_ENV) if pod.component is not None else {}
    for each in container.get("env", []):
        field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        environ[each["name"]] = POD_FIELDS[field] if field else each.get("value", "")
        environ[each["name"]] = _expanded(environ[each["name"]], environ)
    words = [
        _expanded(w, environ) for w in [*container.get("command", []), *container.get("args", [])]
    ]
    if words and words[0] in _LAUNCHERS:
        words = words[1:]
    if words[:2] != ["python3", "-m"]:
        return None
    program, argv = words[2], [volumes.moved(word) for word in words[3:]]
    if program == "dynamo.frontend":
        _parse_frontend(tuple(argv), tuple(sorted(environ.items())))
        return Started(pod, container, program, None, environ)
    if program not in _PROGRAMS:
        return None  # a problem of those who expect it to be checked
    for word in argv:
        if word.startswith("--model="):
            volumes.make_model(word.removeprefix("--model="))
    return Started(pod, container, program, _PROGRAMS[program](argv, environ).config, environ)


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    """$(NAME) as the kubelet replaces it.

    Raises:
        ValueError: a name stays that nobody defines; the kubelet would leave it as it is.
    """
    for name, value in environ.items():
        text = text.replace(f"$({name})", value)
    if "$(" in text:
        raise ValueError(f"{text!r}: there is no such variable")
    return text


@cache
def _parse_frontend(argv: tuple[str, ...], environ: tuple[tuple[str, str], ...]) -> None:
    """Dynamo's own parser, in a process of its own: it looks at sys.argv.

    Raises:
        ValueError: it refuses.
    """
    code = (
        "import json, sys; from dynamo.frontend.main import parse_args;"
        "sys.argv[1:] = json.loads(sys.argv[1]); parse_args()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(argv)],
        env={"PATH": os.environ["PATH"]} | dict(environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"dynamo.frontend refuses {list(argv)}: {done.stderr[-300:]}")


def _worker(each: Started) -> Iterator[str]:
    config, spec = each.config, each.pod.spec
    needed = grace_needed_s(config)
    grace = spec.get("terminationGracePeriodSeconds", 30)
    if grace < needed:
        yield f"terminationGracePeriodSeconds is {grace}, its drain may take {needed:g}"
    if config.role == "prefill" and config.drain_timeout_s < config.transfer_lease_s:
        yield "drains for less than a handoff may wait to be fetched (transfer_lease_s)"
    ports = [p["containerPort"] for p in each.container.get("ports", []) if p["name"] == "system"]
    if each.pod.component is None and ports != [config.system_port]:
        yield f"its status server is on {config.system_port}, the port `system` is {ports}"
    if config.host != POD_FIELDS["status.podIP"]:
        yield f"listens on {config.host}, where neither frontends nor probes reach it"
    if not config.health_probe:
        yield "is ready before its engine has proven itself: --health-probe"
    yield from _model_cache(each)


def grace_needed_s(config: Any) -> float:
    """Seconds from SIGTERM to the end in the worst case."""
    closing = 0.0 if config.kv_events == "none" else STREAM_CLOSE_S
    draining = float(config.drain_grace_s + config.drain_timeout_s)
    return draining + CUT_TIMEOUT_S + closing + DYNAMO_CLEANUP_S


def _model_cache(each: Started) -> Iterator[str]:
    mounts = {m["name"]: m for m in each.container.get("volumeMounts", [])}
    claims = {
        v["name"]: v for v in each.pod.spec.get("volumes", []) if "persistentVolumeClaim" in v
    }
    for name in claims.keys() & mounts.keys():
        if not mounts[name].get("readOnly"):
            yield f"mounts {name} for writing; the job fills it"
    if each.environ.get("HF_HUB_OFFLINE") != "1":
        yield "may download at start: HF_HUB_OFFLINE=1"
    if (
        each.config.engine == "trtllm"
        and "/dev/shm" not in {m["mountPath"] for m in each.container.get("volumeMounts", [])}
        and each.pod.component is None
    ):
        yield "/dev/shm must be a volume with a size"
