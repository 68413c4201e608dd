"""The page about TensorRT-LLM and its launch files name options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shepherd_config.options import options_of
from shepherd_worker.config import WorkerConfig, load_config

ROOT = Path(__file__).parents[3]
FILES = (
    "docs/tensorrt-llm.md",
    "deploy/slurm/tensorrt-llm.sbatch",
    "deploy/k8s/tensorrt-llm/worker.yaml",
    "deploy/k8s/tensorrt-llm/multinode.yaml",
)
OF_OTHER_PROGRAMS = {
    *("--help", "--no-deps", "--shm-size", "--ulimit", "--engine", "--router-mode"),
    *("--checkpoint_dir", "--output_dir", "--use_paged_context_fmha", "--max_batch_size"),
    *("--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--exclusive", "--time"),
    *("--signal", "--mpi", "--container-image", "--container-mounts", "--export"),
}


@pytest.mark.parametrize("file", FILES)
def test_every_option_that_is_named_exists(file: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", (ROOT / file).read_text()))
    known = {
        flag for each in options_of(WorkerConfig).values() for flag in (each.flag, *each.aliases)
    }

    assert named - known - OF_OTHER_PROGRAMS == set()


@pytest.mark.parametrize("file", FILES[2:])
def test_a_pod_s_command_line_is_accepted(file: str) -> None:
    lines = (ROOT / file).read_text().split("shepherd_worker]", 1)[1].splitlines()
    argv = [line.strip()[2:] for line in lines if line.strip().startswith("- --")]
    argv = [each.replace("$(POD_IP)", "127.0.0.1") for each in argv]
    config = load_config(argv, {}).config

    assert config.engine == "trtllm"
    assert config.engine_config().tensor_parallel_size in {4, 16}


def test_links_lead_somewhere() -> None:
    page = ROOT / "docs" / "tensorrt-llm.md"
    targets = re.findall(r"\]\((\.\./[^)#]+)\)", page.read_text())

    assert len(targets) > 4
    for target in targets:
        assert (page.parent / target).exists(), target
