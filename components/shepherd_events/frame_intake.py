"""What arrives on one stream's wires, as frames: of this stream, whole, and with tokens opened.

Knows nothing of order.  What is refused is counted and told of, and never
handed on in part.  Once a frame of an epoch came with a checksum, all must: a
frame that seems to have none has lost it on the way.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from shepherd_events.codec import decode_frame
from shepherd_events.control_client import Snapshot
from shepherd_events.errors import ChecksumError, CodecError
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
        self._checked_epoch = 0
        self.num_refused = 0
        """Payloads that are no frame of this stream, or not whole."""
        self.num_corrupt = 0
        """Those of them that have another checksum than they should."""

    def read(self, payload: bytes) -> Frame | None:
        """A frame of this stream; None, counted, if it is anything else."""
        try:
            frame = self._accepted(decode_frame(payload))
            body = self._opener.open_body(frame.body, frame.epoch)
            return frame if body is frame.body else replace(frame, body=body)
        except CodecError as error:
            problem = str(error)
            self.num_corrupt += isinstance(error, ChecksumError)
        self.num_refused += 1
        logger.warning("frame refused: %s", problem, extra={"stream": str(self._stream)})
        return None

    def _accepted(self, frame: Frame) -> Frame:
        """The frame itself.

        Raises:
            ChecksumError: it has none, others of its epoch have one.
            CodecError: it is somebody else's.
        """
        if frame.stream != self._stream:
            raise CodecError("worker_id", f"the frame belongs to {frame.stream}")
        if frame.checksum is not None:
            self._checked_epoch = max(self._checked_epoch, frame.epoch)
        elif frame.epoch == self._checked_epoch:
            raise ChecksumError("none, others of this epoch have one")
        return frame

    def open_runs(self, snapshot: Snapshot) -> tuple[BlocksStored, ...]:
        """The blocks of a snapshot, with the tokens that our keys open."""
        return self._opener.open_runs(snapshot.blocks, snapshot.position.epoch)
