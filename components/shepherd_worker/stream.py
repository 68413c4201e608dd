"""The worker's KV event stream: the publisher, and how readers are told of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from shepherd_events.block_hash import HASH_ALGO
from shepherd_events.discovery import StreamDescriptor
from shepherd_events.epoch_file import EpochFile
from shepherd_events.errors import KvEventsError
from shepherd_events.events import StreamId, StreamInfo
from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_events.foreign.outgoing import SaltOf
from shepherd_events.publisher import KvEventPublisher, PublisherCounters
from shepherd_events.transports.protocol import PublisherTransport
from shepherd_worker.config import Role, WorkerConfig
from shepherd_worker.engine.protocol import EngineInfo
from shepherd_worker.errors import UnreachableError, UnusableInputError
from shepherd_worker.event_bridge import StreamPublisher
from shepherd_worker.health import StreamPosition

if TYPE_CHECKING:
    from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStream:
    """An open stream, or none at all with `--kv-events none` and in a role without a cache."""

    publisher: KvEventPublisher | None
    descriptor: StreamDescriptor | None
    also: MsgpackPublisher | None = None
    """The blocks in vLLM's form."""

    @classmethod
    def open(
        cls,
        config: WorkerConfig,
        info: EngineInfo,
        instance_id: int,
        salt_of: SaltOf = lambda _: None,
    ) -> Self:
        """Bind the endpoints and publish the stream's first frame.

        `salt_of` is what the form of vLLM needs.

        Raises:
            UnreachableError: the package that a transport needs is missing.
            UnusableInputError: the endpoint, a key or the epoch file cannot be used.
        """
        if config.role is Role.ENCODE:
            return cls(None, None)
        also = _open_also(config, salt_of)
        if config.kv_events == "none":
            return cls(None, None, also)
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
            if also is not None:
                also.close()
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
            also,
        )

    @property
    def publishers(self) -> tuple[StreamPublisher, ...]:
        """All that must be told what the cache does."""
        return tuple(each for each in (self.publisher, self.also) if each is not None)

    def counters(self) -> PublisherCounters | None:
        """What the publisher counted; from any thread."""
        return None if self.publisher is None else self.publisher.counters

    def also_counters(self) -> MsgpackCounters | None:
        """What the publisher in vLLM's form counted; from any thread."""
        return None if self.also is None else self.also.counters

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
        if self.also is not None:
            self.also.close()


def _open_also(config: WorkerConfig, salt_of: SaltOf) -> MsgpackPublisher | None:
    """The stream in vLLM's form, where it is asked for."""
    endpoint = config.msgpack_endpoint
    if endpoint is None:
        return None
    from shepherd_events.foreign.msgpack_publisher import (  # noqa: PLC0415 - imports ZMQ
        MsgpackPublisher,
    )

    also = MsgpackPublisher(endpoint, salt_of=salt_of)
    try:
        also.start()
    except KvEventsError as error:
        raise UnusableInputError(f"--kv-events-also {config.kv_events_also}: {error}") from error
    log.info("blocks in vLLM's form at %s, replays at %s", also.live, also.replay or "none")
    return also


def _transport(config: WorkerConfig, stream: StreamId) -> PublisherTransport:
    """Only the chosen one's packages are imported."""
    if config.kv_events == "nats":
        return _nats_transport(config, stream)
    from shepherd_events.transports.zmq import ZmqPublisherTransport  # noqa: PLC0415 - as above

    url = urlsplit(config.stream_endpoint)
    return ZmqPublisherTransport(url.hostname or "", url.port or 0, curve=config.curve_credentials)


def _nats_transport(config: WorkerConfig, stream: StreamId) -> PublisherTransport:
    try:
        from shepherd_events.transports.nats_log import Retention  # noqa: PLC0415 - an extra
        from shepherd_events.transports.nats_publisher import (  # noqa: PLC0415 - an extra
            NatsPublisherTransport,
        )
    except ModuleNotFoundError as error:
        raise UnreachableError(
            f"--kv-events nats needs the package {error.name}: pip install 'shepherd-worker[nats]'"
        ) from error
    return NatsPublisherTransport(
        config.stream_endpoint,
        stream,
        credentials=config.nats_credentials,
        retention=Retention(replicas=config.kv_events_replicas),
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
