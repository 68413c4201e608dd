"""What arrives on one stream's wires, as frames: of this stream, whole, and with tokens opened.

Knows nothing of order.  What is refused is counted and told of, and never
handed on in part.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from shepherd_events.codec import decode_frame
from shepherd_events.control_client import Snapshot
from shepherd_events.errors import CodecError
from shepherd_events.events import BlocksStored, Frame, StreamId
from shepherd_events.privacy import Opener

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

logger = logging.getLogger(__name__)


class FrameIntake:
    """Bytes in, frames out."""

    def __init__(self, stream: StreamId, keys: TenantKeys | None) -> None:
        self._stream = stream
        self._opener = Opener(keys, stream)
        self.num_refused = 0
        """Payloads that are no frame of this stream."""

    def read(self, payload: bytes) -> Frame | None:
        """A frame of this stream; None, counted, if it is anything else."""
        try:
            frame = decode_frame(payload)
            if frame.stream == self._stream:
                return replace(frame, body=self._opener.open_body(frame.body, frame.epoch))
        except CodecError as error:
            problem = str(error)
        else:
            problem = f"it belongs to {frame.stream}"
        self.num_refused += 1
        logger.warning("frame refused: %s", problem, extra={"stream": str(self._stream)})
        return None

    def open_runs(self, snapshot: Snapshot) -> tuple[BlocksStored, ...]:
        """The blocks of a snapshot, with the tokens that our keys open."""
        return self._opener.open_runs(snapshot.blocks, snapshot.position.epoch)
