"""`shepherd up`: the whole system on this machine, until somebody stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from shepherd_cli.stack import Service, Stack
from shepherd_tiny_chat import MODEL_DIR

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


async def run_up(build_dir: Path, console: Console, say: Callable[[str], None]) -> None:
    """Start everything, tell where it is, and wait to be cancelled.

    Raises:
        ProcessFailedError: a part did not start, or ended by itself.
    """
    async with Stack(build_dir / "up") as stack:
        with console.status("starting frontend, memory, two workers and the gateway"):
            running = await start(stack, MODEL_DIR, num_kv_blocks=64)
        page = running.memory.url + "/ui"
        has_page = await stack.answers(page)
        say(_welcome(running, stack.run_dir, page if has_page else ""))
        dead = await stack.any_ended()
        say(f"{dead.name} ended with {dead.exit_code}; its log is {dead.log_path}")


def _welcome(running: Running, run_dir: Path, page: str) -> str:
    prefill, decode = running.workers
    workers = f"--worker {prefill.url} --worker {decode.url}"
    shown = f"memory page  {page}\n" if page else ""
    return f"""\
OpenAI API   {running.gateway.url}/v1     model {MODEL_NAME}
frontend     {running.frontend.url}/v1     Dynamo's own: no NOTICE, no recall
{shown}memory       {running.memory.url}/v1/sessions
prefill      {prefill.url}/health  /metrics
decode       {decode.url}/health  /metrics
logs         {run_dir}

Talk:
  shepherd chat --url {running.gateway.url} --memory {running.memory.url} {workers}

Try:
  curl -s {running.gateway.url}/v1/chat/completions -H 'content-type: application/json' \\
    -H 'x-dynamo-session-id: me' -d '{{"model": "{MODEL_NAME}", "temperature": 0,
    "messages": [{{"role": "user", "content": "Why is the sky blue?"}}]}}'

Ctrl-C stops everything."""
