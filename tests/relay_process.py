"""A Dynamo worker that serves nothing and relays KV events to Dynamo's routers.

    python relay_process.py ENDPOINT MODEL_DIR BLOCK_SIZE ZMQ_ENDPOINT TOPIC

What it relays comes from a publisher in vLLM's form, read by Dynamo's own code.
Writes its instance id when it is registered; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from dynamo.llm import (
    KvEventPublisher,
    ModelInput,
    ModelRuntimeConfig,
    ModelType,
    WorkerMetricsPublisher,
    WorkerType,
    register_model,
)
from dynamo.runtime import DistributedRuntime


async def _nothing(request: Any) -> AsyncIterator[Any]:
    del request
    yield {"token_ids": [], "index": 0, "finish_reason": "stop"}


async def main(path: str, model: str, block_size: int, source: str, topic: str) -> None:
    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp", event_plane="zmq")
    endpoint = runtime.endpoint(path)
    config = ModelRuntimeConfig()
    config.enable_local_indexer = True
    config.total_kv_blocks = 100
    await register_model(
        ModelInput.Tokens,
        ModelType.Chat,
        endpoint,
        model,
        "relayed",
        kv_cache_block_size=block_size,
        runtime_config=config,
        worker_type=WorkerType.Aggregated,
        needs=[],
    )
    relay = KvEventPublisher(
        endpoint,
        kv_block_size=block_size,
        enable_local_indexer=True,
        zmq_endpoint=source,
        zmq_topic=topic,
    )
    load = WorkerMetricsPublisher()
    await load.create_endpoint(endpoint)
    serving = asyncio.ensure_future(endpoint.serve_endpoint(_nothing))
    print(endpoint.connection_id(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    relay.shutdown()
    runtime.shutdown()
    await serving


if __name__ == "__main__":
    path, model, size, *source = sys.argv[1:]
    asyncio.run(main(path, model, int(size), *source))
