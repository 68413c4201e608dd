"""The system of the demo and of tests: a prefill and a decode worker, and all around them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from shepherd_cli.stack import Service, Stack

MODEL_NAME = "shepherd-tiny"


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a started system, by what a user does with them."""

    frontend: Service
    memory: Service
    gateway: Service
    workers: tuple[Service, ...]


async def start(stack: Stack, model: Path, *, num_kv_blocks: int) -> Running:
    """Start frontend, memory, one prefill and one decode worker, together; then the gateway."""
    stack.env.setdefault("OMP_NUM_THREADS", "1")
    common = (
        *("--model", str(model), "--served-model-name", MODEL_NAME),
        *("--num-kv-blocks", str(num_kv_blocks), "--max-seq-len", str(num_kv_blocks * 16 - 16)),
        *("--dyn-tool-call-parser", "hermes"),
    )
    async with asyncio.TaskGroup() as tasks:
        frontend = tasks.create_task(stack.frontend("--migration-limit", "3"))
        memory = tasks.create_task(stack.memory())
        prefill = tasks.create_task(stack.worker("prefill", *common, "--role", "prefill"))
        decode = tasks.create_task(stack.worker("decode", *common, "--role", "decode"))
    await stack.model_served(frontend.result(), MODEL_NAME)
    gateway = await stack.gateway(frontend.result(), memory.result())
    workers = (prefill.result(), decode.result())
    return Running(frontend.result(), memory.result(), gateway, workers)
