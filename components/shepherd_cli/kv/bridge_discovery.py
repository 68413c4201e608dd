"""A bridge's streams in Dynamo's discovery, where readers look for those of workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from dynamo.runtime import DistributedRuntime

from shepherd_cli.kv.bridge_options import BridgeOptions
from shepherd_events.discovery import KV_STREAM_ENDPOINT, StreamDescriptor
from shepherd_events.tokenizer_assets import TokenizerAssets
from shepherd_worker.stream_endpoint import StreamEndpoint


class BridgePresence:
    """An endpoint that answers as a worker's does; event loop only."""

    def __init__(self, options: BridgeOptions, descriptors: Sequence[StreamDescriptor]) -> None:
        """`descriptors` are those of the streams that there are when somebody asks.

        Raises:
            ConnectionError: the discovery backend does not answer.
            TokenizerNotFoundError: the directory of the tokenizer has none.
        """
        assets = TokenizerAssets.from_directory(options.tokenizer)
        self._endpoint = StreamEndpoint(descriptors, assets)
        os.environ["DYN_TCP_RPC_HOST"] = options.host
        backend = options.discovery_backend
        try:
            self._runtime = DistributedRuntime(
                asyncio.get_running_loop(), backend, options.request_plane
            )
        except Exception as error:
            raise ConnectionError(f"discovery ({backend}) does not answer: {error}") from error
        path = f"{options.register}.{KV_STREAM_ENDPOINT}"
        self._serving = asyncio.ensure_future(
            self._runtime.endpoint(path).serve_endpoint(self._answer)
        )

    async def _answer(self, question: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async for answer in self._endpoint.answer(question):
            yield answer

    async def close(self) -> None:
        """Leave discovery."""
        self._runtime.shutdown()
        self._serving.cancel()
        await asyncio.wait([self._serving], timeout=2.0)
