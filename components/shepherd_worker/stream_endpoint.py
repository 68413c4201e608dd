"""What the `kv_stream` endpoint answers to readers of this worker's stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from shepherd_events.discovery import StreamDescriptor
from shepherd_events.transcript import TokenizerAssets


class StreamEndpoint:
    """Answers `{"want": "descriptor"}` and `{"want": "tokenizer"}`."""

    def __init__(self, descriptors: Sequence[StreamDescriptor], assets: TokenizerAssets) -> None:
        self._descriptors = descriptors
        """In the order of the ranks; empty where no stream is published."""
        self._assets = assets

    async def answer(self, question: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield one answer, of descriptors one per rank, or an object with `error`."""
        match question.get("want", "descriptor"):
            case "descriptor" if self._descriptors:
                for descriptor in self._descriptors:
                    yield descriptor.to_json()
            case "descriptor":
                yield {"error": "this worker publishes no stream: --kv-events none"}
            case "tokenizer":
                yield self._assets.to_json()
            case other:
                yield {"error": f"want={other!r}: expected descriptor or tokenizer"}
