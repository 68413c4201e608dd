"""A fake worker whose frames travel through a real publisher."""

from __future__ import annotations

from typing import Any

from shepherd_events.discovery import StreamDescriptor, StreamJoined
from shepherd_events.events import BlockBatch, Frame, StreamId, StreamInfo, TurnCompleted
from shepherd_events.privacy import Veil
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.protocol import PublisherTransport
from shepherd_memory.fake import FakeWorker


class PublishingWorker(FakeWorker):
    def __init__(
        self, transport: PublisherTransport, worker_id: str, veil: Veil | None = None
    ) -> None:
        super().__init__(worker_id)
        self.publisher = KvEventPublisher(
            StreamId(worker_id),
            StreamInfo("fake", 4, "fake"),
            transport,
            veil=veil,
            heartbeat_s=0.05,
        )
        self.publisher.start()

    def emit(self, body: Any) -> Frame:
        match body:
            case BlockBatch():
                self.publisher.publish(body.events)
            case TurnCompleted():
                self.publisher.publish_turn(body)
        return super().emit(body)

    @property
    def joined(self) -> StreamJoined:
        return StreamJoined(StreamDescriptor(self.publisher.address, "aggregated", "fake", 4))
