"""What the doctor says of machines that are well and of machines that are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from shepherd_cli.doctor import Patient, Status, as_json, examine, exit_code
from shepherd_cli.doctor_checks import CHECKS
from shepherd_cli.doctor_machine import Machine, ThisMachine
from tiny_models import tiny_model

GIB = 1 << 30


@dataclass(frozen=True)
class PaperMachine:
    """A machine that is what is written down; one with a GPU and TensorRT-LLM, by default."""

    python: str = "3.12"
    packages: dict[str, str] = field(
        default_factory=lambda: {
            "torch": "2.9.1",
            "tensorrt-llm": "1.2.0",
            "nvidia-cuda-runtime": "13.1.80",
            "nvidia-cublas": "13.1.0.3",
        }
    )
    driver: str | None = "590.44.01"
    free_gpu_mib: str = "79000\n79000"
    mpi: str | None = "mpirun (Open MPI) 4.1.6"
    shm: int | None = 64 * GIB
    taken_ports: tuple[int, ...] = ()
    services: tuple[tuple[str, int], ...] = ()

    def run(self, *argv: str) -> str | None:
        if argv[0] == "mpirun":
            return self.mpi
        if self.driver is None:
            return None
        return self.driver if "driver_version" in argv[1] else self.free_gpu_mib

    def package(self, name: str) -> str | None:
        return self.packages.get(name)

    def requirements(self, name: str) -> list[str]:
        return ['nvidia-cublas==13.1.0.3; platform_system == "Linux"'] if name == "torch" else []

    def library(self, name: str) -> bool:
        return False

    def free_bytes(self, path: str) -> int | None:
        return self.shm

    def is_free(self, port: int) -> bool:
        return port not in self.taken_ports

    def answers(self, host: str, port: int) -> bool:
        return (host, port) in self.services


WELL = PaperMachine()
TRTLLM = Patient(engine="trtllm")


def report(machine: Machine, patient: Patient = TRTLLM) -> dict[str, tuple[Status, str, str]]:
    found = examine(machine, patient, CHECKS)
    return {each.check: (each.status, each.found, each.fix) for each in found}


def without(*names: str, **versions: str) -> PaperMachine:
    kept = {name: v for name, v in WELL.packages.items() if name not in names}
    return replace(WELL, packages=kept | {n.replace("_", "-"): v for n, v in versions.items()})


def test_a_machine_that_is_well_has_nothing_to_fix() -> None:
    findings = examine(WELL, TRTLLM, CHECKS)

    assert {each.status for each in findings} == {Status.OK}
    assert exit_code(findings) == 0


def test_a_machine_without_a_gpu_is_well_for_the_embedded_engine() -> None:
    bare = replace(
        without("tensorrt-llm", "nvidia-cublas", "nvidia-cuda-runtime"), driver=None, mpi=None
    )

    assert exit_code(examine(bare, Patient(), CHECKS)) == 0
    assert exit_code(examine(bare, TRTLLM, CHECKS)) == 2


@pytest.mark.parametrize(
    ("machine", "check", "status", "words"),
    [
        (replace(WELL, python="3.11"), "Python", Status.FAIL, "3.10 or 3.12"),
        (without("torch"), "PyTorch", Status.FAIL, "shepherd-worker[torch]"),
        (without(torch="2.7.1"), "PyTorch", Status.WARN, "2.9.1"),
        (without("tensorrt-llm"), "TensorRT-LLM", Status.FAIL, "docs/tensorrt-llm.md"),
        (without(tensorrt_llm="1.0.0"), "TensorRT-LLM", Status.WARN, "1.2, 1.3"),
        (without(tensorrt_llm="9.9"), "TensorRT-LLM", Status.WARN, "1.2, 1.3"),
        (replace(WELL, driver=None), "NVIDIA driver", Status.FAIL, "install"),
        (replace(WELL, driver="570.1"), "NVIDIA driver", Status.FAIL, "580.65"),
        (without("nvidia-cuda-runtime"), "CUDA", Status.FAIL, "CUDA build"),
        (without(nvidia_cuda_runtime="12.8.1"), "CUDA", Status.FAIL, "13.1"),
        (without(nvidia_cublas="13.0.1.1"), "cuBLAS", Status.FAIL, "nvidia-cublas==13.1.0.3"),
        (without("nvidia-cublas"), "cuBLAS", Status.WARN, "containers"),
        (replace(WELL, mpi=None), "OpenMPI", Status.FAIL, "libopenmpi-dev"),
        (replace(WELL, free_gpu_mib="4000"), "GPU memory", Status.WARN, "nvidia-smi"),
        (replace(WELL, driver=None), "GPU memory", Status.FAIL, "--engine torch"),
        (replace(WELL, shm=GIB // 2), "/dev/shm", Status.WARN, "--shm-size"),
        (replace(WELL, shm=None), "/dev/shm", Status.FAIL, "mount a tmpfs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_with_what_to_do(
    machine: PaperMachine, check: str, status: Status, words: str
) -> None:
    said = report(machine)[check]

    assert said[0] is status
    assert words in said[2]


def test_ports_and_services_are_tried() -> None:
    asked = replace(
        TRTLLM, ports=(8000, 9090), nats="nats://broker:4333", etcd="store", postgres=""
    )
    machine = replace(WELL, taken_ports=(9090,), services=(("broker", 4333),))
    said = report(machine, asked)

    assert said["ports"][:2] == (Status.FAIL, "taken: 9090")
    assert said["NATS"][:2] == (Status.OK, "broker:4333 answers")
    assert said["etcd"][:2] == (Status.FAIL, "store:2379 does not answer")
    assert said["PostgreSQL"][:2] == (Status.OK, "not used")


@pytest.mark.parametrize(
    ("check", "option", "port"),
    [("NATS", "nats", 4222), ("etcd", "etcd", 2379), ("PostgreSQL", "postgres", 5432)],
)
def test_a_service_is_asked_at_its_own_port_and_only_where_it_is_used(
    check: str, option: str, port: int
) -> None:
    asked = replace(TRTLLM, **{option: "there"})
    alive = replace(WELL, services=(("there", port),))

    assert report(WELL)[check][:2] == (Status.OK, "not used")
    assert report(alive, asked)[check][:2] == (Status.OK, f"there:{port} answers")
    assert report(WELL, asked)[check] == (
        Status.FAIL,
        f"there:{port} does not answer",
        "start it, or correct its address",
    )


def test_ports_are_free_taken_or_not_asked_for() -> None:
    asked = replace(TRTLLM, ports=(8000, 9090))

    assert report(WELL)["ports"][:2] == (Status.OK, "none asked for")
    assert report(WELL, asked)["ports"][:2] == (Status.OK, "8000, 9090")
    assert report(replace(WELL, taken_ports=(8000,)), asked)["ports"][0] is Status.FAIL


def test_what_is_not_sure_of_a_model_is_a_warning(tmp_path: Path) -> None:
    hub = report(WELL, replace(TRTLLM, model="Qwen/Qwen3-0.6B"))
    assert (hub["model"][0], hub["template"][0]) == (Status.WARN, Status.OK)

    odd = tmp_path / "odd"
    shutil.copytree(tiny_model("qwen2"), odd)
    for file in odd.glob("chat_template*"):
        file.unlink()
    settings = json.loads((odd / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ raise_exception('no') }}"
    (odd / "tokenizer_config.json").write_text(json.dumps(settings))
    said = report(WELL, replace(TRTLLM, model=str(odd)))
    assert said["model"][0] is Status.OK
    assert said["template"][:2] == (Status.WARN, "not understood")


def test_every_check_says_one_line_under_a_name_of_its_own() -> None:
    assert sorted(report(WELL)) == sorted(
        [
            *("Python", "PyTorch", "TensorRT-LLM", "NVIDIA driver", "CUDA", "cuBLAS", "OpenMPI"),
            *("GPU memory", "/dev/shm", "ports", "NATS", "etcd", "PostgreSQL"),
            *("model", "template"),
        ]
    )
    assert len(report(WELL)) == len(CHECKS)


def test_a_model_is_looked_through(tmp_path: Path) -> None:
    whole = report(WELL, replace(TRTLLM, model=str(tiny_model("qwen2"))))
    assert (whole["model"][0], whole["template"][0]) == (Status.OK, Status.OK)

    empty = report(WELL, replace(TRTLLM, model=str(tmp_path)))
    assert (empty["model"][0], empty["template"][0]) == (Status.FAIL, Status.FAIL)
    (tmp_path / "rank0.engine").touch()
    assert "1.3.0rc20" in report(WELL, replace(TRTLLM, model=str(tmp_path)))["model"][2]


def test_a_check_that_fails_is_a_finding() -> None:
    class Broken(PaperMachine):
        def package(self, name: str) -> str | None:
            raise OSError("disk on fire")

    said = report(Broken())
    assert said["torch"][0] is Status.FAIL
    assert "disk on fire" in said["torch"][1]
    assert said["/dev/shm"][0] is Status.OK


def test_the_report_is_json_for_programs() -> None:
    document = json.loads(as_json(examine(replace(WELL, mpi=None), TRTLLM, CHECKS)))

    assert document["exit_code"] == 2
    (found,) = [each for each in document["findings"] if each["status"] != "ok"]
    assert found.keys() == {"check", "status", "found", "fix"}
    assert found["check"] == "OpenMPI"


def test_this_machine_answers_every_check() -> None:
    findings = examine(ThisMachine(), Patient(), CHECKS)

    assert len(findings) == len(CHECKS)
    assert not [each for each in findings if "could not be checked" in each.found]


def test_the_command_ends_with_the_worst_finding() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shepherd_cli", "doctor", "--json", "--model", "/nothing"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == json.loads(done.stdout)["exit_code"] >= 1
