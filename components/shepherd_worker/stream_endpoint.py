"""What the `kv_stream` endpoint answers to readers of this worker's stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from shepherd_events.discovery import StreamDescriptor
from shepherd_events.transcript import TokenizerAssets


class StreamEndpoint:
    """Answers `{"want": "descriptor"}` and `{"want": "tokenizer"}`."""

    def __init__(self, descriptor: StreamDescriptor | None, assets: TokenizerAssets) -> None:
        self._descriptor = descriptor
        """None where the stream is not published."""
        self._assets = assets

    async def answer(self, question: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield one answer, or an object with `error`."""
        match question.get("want", "descriptor"):
            case "descriptor" if self._descriptor is not None:
                yield self._descriptor.to_json()
            case "descriptor":
                yield {"error": "this worker publishes no stream: --kv-events none"}
            case "tokenizer":
                yield self._assets.to_json()
            case other:
                yield {"error": f"want={other!r}: expected descriptor or tokenizer"}
