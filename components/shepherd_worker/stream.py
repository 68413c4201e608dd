"""The worker's KV event stream: the publisher, and how readers are told of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from shepherd_events.block_hash import HASH_ALGO
from shepherd_events.discovery import StreamDescriptor
from shepherd_events.errors import KvEventsError
from shepherd_events.events import StreamId, StreamInfo
from shepherd_events.publisher import KvEventPublisher, PublisherCounters
from shepherd_worker.config import Role, WorkerConfig
from shepherd_worker.engine.protocol import EngineInfo
from shepherd_worker.errors import UnreachableError, UnusableInputError
from shepherd_worker.health import StreamPosition

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStream:
    """An open stream, or none at all with `--kv-events none` and in a role without a cache."""

    publisher: KvEventPublisher | None
    descriptor: StreamDescriptor | None

    @classmethod
    def open(cls, config: WorkerConfig, info: EngineInfo, instance_id: int) -> Self:
        """Bind the endpoints and publish the stream's first frame.

        Raises:
            UnreachableError: `--kv-events` names a transport that this version lacks.
            UnusableInputError: `--kv-events-endpoint` cannot be bound.
        """
        if config.kv_events == "none" or config.role is Role.ENCODE:
            return cls(None, None)
        if config.kv_events == "nats":
            raise UnreachableError("--kv-events nats: this version publishes over zmq only")
        from shepherd_events.transports.zmq import ZmqPublisherTransport  # noqa: PLC0415  optional

        url = urlsplit(config.kv_events_endpoint)
        try:
            publisher = KvEventPublisher(
                StreamId(config.worker_id or f"{instance_id:x}"),
                _info(config, info),
                ZmqPublisherTransport(url.hostname or "", url.port or 0),
            )
            publisher.start()
        except (KvEventsError, ValueError) as error:
            raise UnusableInputError(
                f"--kv-events-endpoint {config.kv_events_endpoint}: {error}"
            ) from error
        return cls(
            publisher,
            StreamDescriptor(
                address=publisher.address,
                role=config.role.value,
                model=config.model_name,
                block_size=info.block_size,
            ),
        )

    def counters(self) -> PublisherCounters | None:
        """What the publisher counted; from any thread."""
        return None if self.publisher is None else self.publisher.counters

    def position(self) -> StreamPosition | None:
        """The stream's head, for the health report."""
        if self.publisher is None:
            return None
        address = self.publisher.address
        return StreamPosition(
            worker_id=address.stream.worker_id,
            epoch=address.epoch,
            head_seq=self.publisher.head_seq,
            dropped_total=self.publisher.counters.dropped_events,
        )

    def close(self) -> None:
        """Say goodbye; blocks for at most a second or so, safe to call twice."""
        if self.publisher is not None:
            self.publisher.close("worker shut down")


def _info(config: WorkerConfig, info: EngineInfo) -> StreamInfo:
    return StreamInfo(
        model=config.model_name,
        block_size=info.block_size,
        hash_algo=HASH_ALGO,
        hash_seed_id=info.root_hash.to_bytes(8, "little"),
        tiers=tuple(info.num_blocks),
        engine=info.engine,
        engine_version=info.version,
    )
