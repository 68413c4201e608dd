"""Compute a prompt on one worker and its answer on another, and lose nothing by it.

Dynamo's real frontend and three workers, each a process of its own: one with both halves
of the work (aggregated), and a pair that shares it (prefill and decode).  The pair's decode
worker fetches the KV of the prompt's whole blocks and computes the rest; the answer is the same.

Expected output:

    aggregated           Sunlight is scattered by the air, and blue light is scattered ...
    prefill and decode   the same answer
    computed             62 tokens of the prompt by prefill, 14 by decode
    fetched              48 tokens' KV, by decode

    python examples/14_worker_roles.py
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.parser import text_string_to_metric_families

from shepherd_cli.stack import Service, Stack
from shepherd_tiny_chat import MODEL_DIR

SAID = [
    {"role": "user", "content": "My cat is called Tibbles."},
    {"role": "assistant", "content": "Got it: your cat is called Tibbles."},
    {"role": "user", "content": "Thank you!"},
    {"role": "assistant", "content": "You are welcome!"},
    {"role": "user", "content": "Why is the sky blue?"},
]


async def answer(stack: Stack, frontend: Service, model: str) -> str:
    """What a model says to that."""
    body = {
        "model": model,
        "messages": SAID,
        "temperature": 0,
        "max_tokens": 48,
    }
    async with stack.http.post(f"{frontend.url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        return str((await response.json())["choices"][0]["message"]["content"])


async def counted(stack: Stack, worker: Service, name: str, **labels: str) -> int:
    """A counter of a worker."""
    async with stack.http.get(worker.url + "/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    return sum(
        int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def main() -> None:
    """Start all of it, ask twice, look who did what."""
    common = ("--model", str(MODEL_DIR), "--num-kv-blocks", "64", "--max-seq-len", "512")
    pair = (*common, "--served-model-name", "pair")
    one = (*common, "--served-model-name", "one", "--component", "one")
    with TemporaryDirectory() as run_dir:
        async with Stack(Path(run_dir)) as stack:
            stack.env["OMP_NUM_THREADS"] = "1"
            async with asyncio.TaskGroup() as tasks:
                frontend = tasks.create_task(stack.frontend())
                tasks.create_task(stack.worker("aggregated", *one))
                prefill = tasks.create_task(stack.worker("prefill", *pair, "--role", "prefill"))
                decode = tasks.create_task(stack.worker("decode", *pair, "--role", "decode"))
            for model in ("one", "pair"):
                await stack.model_served(frontend.result(), model)
            alone = await answer(stack, frontend.result(), "one")
            shared = await answer(stack, frontend.result(), "pair")
            print(f"{'aggregated':20} {alone[:61]} ...")
            same = "the same answer" if shared == alone else f"ANOTHER ANSWER: {shared}"
            print(f"{'prefill and decode':20} {same}")
            tokens = "shepherd_worker_prompt_tokens_total"
            theirs, ours = [
                await counted(stack, worker.result(), tokens, source="computed")
                for worker in (prefill, decode)
            ]
            print(f"{'computed':20} {theirs} tokens of the prompt by prefill, {ours} by decode")
            fetched = await counted(stack, decode.result(), tokens, source="remote")
            print(f"{'fetched':20} {fetched} tokens' KV, by decode")


if __name__ == "__main__":
    asyncio.run(main())
