"""The worker's KV event stream: the publisher, and how readers are told of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from shepherd_events.block_hash import HASH_ALGO
from shepherd_events.discovery import StreamDescriptor
from shepherd_events.epoch_file import EpochFile
from shepherd_events.errors import KvEventsError
from shepherd_events.events import StreamId, StreamInfo
from shepherd_events.publisher import KvEventPublisher, PublisherCounters
from shepherd_events.transports.protocol import PublisherTransport
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
            UnreachableError: the package that a transport needs is missing.
            UnusableInputError: the endpoint, a key or the epoch file cannot be used.
        """
        if config.kv_events == "none" or config.role is Role.ENCODE:
            return cls(None, None)
        stream = StreamId(config.worker_id or f"{instance_id:x}")
        epoch_path = config.kv_events_epoch_file
        try:
            publisher = KvEventPublisher(
                stream,
                _info(config, info),
                _transport(config, stream),
                epoch_file=EpochFile(epoch_path) if epoch_path else None,
                veil=config.veil(),
            )
            publisher.start()
        except (KvEventsError, ValueError) as error:
            raise UnusableInputError(
                f"--kv-events-endpoint {config.stream_endpoint}: {error}"
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


def _transport(config: WorkerConfig, stream: StreamId) -> PublisherTransport:
    """Only the chosen one's packages are imported."""
    if config.kv_events == "nats":
        return _nats_transport(config, stream)
    from shepherd_events.transports.zmq import ZmqPublisherTransport  # noqa: PLC0415 - as above

    url = urlsplit(config.stream_endpoint)
    return ZmqPublisherTransport(url.hostname or "", url.port or 0, curve=config.curve_credentials)


def _nats_transport(config: WorkerConfig, stream: StreamId) -> PublisherTransport:
    try:
        from shepherd_events.transports.nats_publisher import (  # noqa: PLC0415 - an extra
            NatsPublisherTransport,
        )
    except ModuleNotFoundError as error:
        raise UnreachableError(
            f"--kv-events nats needs the package {error.name}: pip install 'shepherd-worker[nats]'"
        ) from error
    return NatsPublisherTransport(
        config.stream_endpoint, stream, credentials=config.nats_credentials
    )


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
