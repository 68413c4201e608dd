"""What the doctor checks: packages and GPUs against the compatibility table, room, ports, services.

The table is `doctor_compatibility.json`; a version that is not in it is told as
such and judged by nothing.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shepherd_cli.doctor import Check, Finding, Patient, fail, ok, warn
from shepherd_cli.doctor_machine import Machine
from shepherd_cli.doctor_model import check_model, check_template

GIB = 1 << 30
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - looked at, not written to
_DOCS = "docs/tensorrt-llm.md"
_CUBLAS = ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12")


def check_python(machine: Machine, patient: Patient) -> Finding:
    """The interpreter, against the wheels that there are."""
    row = _row(machine)
    if patient.engine == "trtllm" and row and machine.python not in row["python"]:
        wanted = " or ".join(row["python"])
        return fail(
            "Python", machine.python, f"TensorRT-LLM {row['series']} has wheels for {wanted}"
        )
    return ok("Python", machine.python)


def check_tensorrt_llm(machine: Machine, patient: Patient) -> Finding:
    """The wheel, against the versions that the adapter was written for."""
    version = machine.package("tensorrt-llm") or machine.package("tensorrt_llm")
    if version is None:
        if patient.engine == "torch":
            return ok("TensorRT-LLM", "not installed, and not needed for --engine torch")
        return fail("TensorRT-LLM", "not installed", f"install it: {_DOCS}")
    row = _row(machine)
    if row is None or not row["supported"]:
        known = ", ".join(each["series"] for each in _table()["tensorrt_llm"] if each["supported"])
        return warn("TensorRT-LLM", version, f"the adapter was written for {known}: see {_DOCS}")
    return ok("TensorRT-LLM", version)


def check_torch(machine: Machine, patient: Patient) -> Finding:
    """PyTorch, against the one that the installed TensorRT-LLM was built with."""
    version = machine.package("torch")
    if version is None:
        return fail("PyTorch", "not installed", "pip install 'shepherd-worker[torch]'")
    wanted = (_row(machine) or {}).get("torch")
    if patient.engine == "trtllm" and wanted and not version.startswith(wanted):
        return warn(
            "PyTorch", version, f"this TensorRT-LLM was built with {wanted}: reinstall both"
        )
    return ok("PyTorch", version)


def check_driver(machine: Machine, patient: Patient) -> Finding:
    """The kernel driver, against the CUDA that is used."""
    printed = machine.run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if not printed:
        if patient.engine == "torch":
            return ok("NVIDIA driver", "none: the embedded engine computes on the CPU")
        return fail("NVIDIA driver", "nvidia-smi finds none", "install NVIDIA's driver")
    version, major = printed.splitlines()[0], _cuda(machine).split(".")[0]
    for row in _table()["driver"]:
        if row["cuda"] == major and _numbers(version) < _numbers(row["minimum"]):
            fix = f"CUDA {major} needs at least {row['minimum']}: update the driver"
            return fail("NVIDIA driver", version, fix)
    return ok("NVIDIA driver", version)


def check_cuda(machine: Machine, patient: Patient) -> Finding:
    """The CUDA runtime that PyTorch brings."""
    version, wanted = _cuda(machine), (_row(machine) or {}).get("cuda")
    if not version:
        if patient.engine == "torch":
            return ok("CUDA", "none: this PyTorch computes on the CPU")
        return fail("CUDA", "this PyTorch has none", f"install the CUDA build of PyTorch: {_DOCS}")
    if patient.engine == "trtllm" and wanted and version.split(".")[0] != wanted.split(".")[0]:
        return fail("CUDA", version, f"this TensorRT-LLM was built for CUDA {wanted}")
    return ok("CUDA", version)


def check_cublas(machine: Machine, patient: Patient) -> Finding:
    """The cuBLAS that is installed, against the one that PyTorch asks for."""
    found = {name: version for name in _CUBLAS if (version := machine.package(name))}
    if not found:
        if patient.engine == "torch":
            return ok("cuBLAS", "none as a package")
        return warn(
            "cuBLAS", "none as a package", "fine in NVIDIA's containers, which bring their own"
        )
    for name, version in found.items():
        wanted = _pinned(machine, name)
        if wanted and wanted != version:
            return fail(
                "cuBLAS", f"{name} {version}", f"pip install {name}=={wanted}, as PyTorch asks"
            )
    return ok("cuBLAS", ", ".join(f"{name} {version}" for name, version in found.items()))


def check_openmpi(machine: Machine, patient: Patient) -> Finding:
    """The MPI that TensorRT-LLM starts its ranks with, one GPU included."""
    printed = machine.run("mpirun", "--version")
    if printed and "Open MPI" in printed:
        return ok("OpenMPI", printed.splitlines()[0])
    if machine.library("libmpi.so.40"):
        return ok(
            "OpenMPI", "libmpi.so.40; mpirun is not on the path, which one machine does not need"
        )
    if patient.engine == "torch":
        return ok("OpenMPI", "none, and not needed for --engine torch")
    return fail("OpenMPI", "none", "apt-get install libopenmpi-dev openmpi-bin")


def check_gpu_memory(machine: Machine, patient: Patient) -> Finding:
    """Room on the GPUs."""
    printed = machine.run("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
    if not printed:
        if patient.engine == "torch":
            return ok("GPU memory", "no GPU")
        return fail("GPU memory", "no GPU", "TensorRT-LLM needs an NVIDIA GPU; or --engine torch")
    free = [int(line) / 1024 for line in printed.splitlines()]
    found, least = ", ".join(f"{each:.0f} GiB free" for each in free), min(free)
    if least < _table()["gpu_memory_gib"]["warn_below"]:
        return warn("GPU memory", found, "a small model fits; end other processes (nvidia-smi)")
    return ok("GPU memory", found)


def check_shared_memory(machine: Machine, patient: Patient) -> Finding:
    """Room in /dev/shm, which ranks and KV transfer use."""
    free = machine.free_bytes(_SHARED_MEMORY)
    if free is None:
        return fail(_SHARED_MEMORY, "not there", "mount a tmpfs there")
    least = _table()["shared_memory_gib"]["warn_below"] * GIB if patient.engine == "trtllm" else GIB
    found = f"{free / GIB:.1f} GiB free"
    if free < least:
        fix = f"give it {least // GIB} GiB: docker --shm-size, or sharedMemorySize in Kubernetes"
        return warn(_SHARED_MEMORY, found, fix)
    return ok(_SHARED_MEMORY, found)


def check_ports(machine: Machine, patient: Patient) -> Finding:
    """Ports that are to be listened on."""
    taken = [port for port in patient.ports if not machine.is_free(port)]
    if taken:
        return fail(
            "ports", f"taken: {', '.join(map(str, taken))}", "choose others, or end who has them"
        )
    return ok("ports", ", ".join(map(str, patient.ports)) or "none asked for")


def check_nats(machine: Machine, patient: Patient) -> Finding:
    """NATS, where it is used."""
    return _service(machine, "NATS", patient.nats, 4222)


def check_etcd(machine: Machine, patient: Patient) -> Finding:
    """etcd, where it is used."""
    return _service(machine, "etcd", patient.etcd, 2379)


def check_postgres(machine: Machine, patient: Patient) -> Finding:
    """PostgreSQL, where it is used."""
    return _service(machine, "PostgreSQL", patient.postgres, 5432)


CHECKS: tuple[Check, ...] = (
    check_python,
    check_torch,
    check_tensorrt_llm,
    check_driver,
    check_cuda,
    check_cublas,
    check_openmpi,
    check_gpu_memory,
    check_shared_memory,
    check_ports,
    check_nats,
    check_etcd,
    check_postgres,
    check_model,
    check_template,
)


def _service(machine: Machine, name: str, url: str, default_port: int) -> Finding:
    if not url:
        return ok(name, "not used")
    where = urlsplit(url if "//" in url else f"//{url}")
    host, port = where.hostname or "127.0.0.1", where.port or default_port
    if machine.answers(host, port):
        return ok(name, f"{host}:{port} answers")
    return fail(name, f"{host}:{port} does not answer", "start it, or correct its address")


@cache
def _table() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(
        (Path(__file__).parent / "doctor_compatibility.json").read_text()
    )
    return read


def _row(machine: Machine) -> dict[str, Any] | None:
    """The table's row of the installed TensorRT-LLM."""
    version = machine.package("tensorrt-llm") or machine.package("tensorrt_llm") or ""
    rows = _table()["tensorrt_llm"]
    return next((row for row in rows if version.startswith(row["series"] + ".")), None)


def _cuda(machine: Machine) -> str:
    """CUDA's version, from the runtime that PyTorch depends on; empty without one."""
    for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"):
        if version := machine.package(name):
            return ".".join(version.split(".")[:2])
    return ""


def _pinned(machine: Machine, name: str) -> str:
    """The version of a package that PyTorch insists on."""
    for requirement in machine.requirements("torch"):
        found = re.match(rf"{re.escape(name)}\s*\(?==\s*([\d.]+)", requirement)
        if found:
            return found.group(1)
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
