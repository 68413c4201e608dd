"""The worker's KV event streams: their publishers, and how readers are told of them."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

from shepherd_events.block_hash import HASH_ALGO
from shepherd_events.discovery import StreamDescriptor
from shepherd_events.epoch_file import EpochFile
from shepherd_events.errors import KvEventsError
from shepherd_events.events import StreamId, StreamInfo
from shepherd_events.foreign.msgpack_counters import MsgpackCounters
from shepherd_events.foreign.outgoing import SaltOf
from shepherd_events.publisher import KvEventPublisher, PublisherCounters
from shepherd_events.transports.protocol import Backlog, PublisherTransport
from shepherd_worker.config import Role, WorkerConfig
from shepherd_worker.engine.protocol import EngineInfo
from shepherd_worker.errors import UnreachableError, UnusableInputError
from shepherd_worker.event_bridge import StreamPublisher
from shepherd_worker.health import StreamPosition
from shepherd_worker.stream_options import StreamOptions

if TYPE_CHECKING:
    from shepherd_events.foreign.msgpack_publisher import MsgpackPublisher

log = logging.getLogger(__name__)

Counters = TypeVar("Counters", PublisherCounters, MsgpackCounters)


@dataclass(frozen=True, slots=True)
class RankStream:
    """Where one attention-parallel rank's events go; nowhere with `--kv-events none`."""

    own: KvEventPublisher | None
    also: MsgpackPublisher | None
    """The blocks in vLLM's form."""

    @property
    def publishers(self) -> tuple[StreamPublisher, ...]:
        """All that must be told what the rank's cache does."""
        return tuple(each for each in (self.own, self.also) if each is not None)


@dataclass(frozen=True, slots=True)
class WorkerStream:
    """The open streams of a worker, by rank; none at all in a role without a cache."""

    ranks: tuple[RankStream, ...]
    descriptors: tuple[StreamDescriptor, ...]

    @classmethod
    def open(
        cls,
        config: WorkerConfig,
        info: EngineInfo,
        instance_id: int,
        salt_of: SaltOf = lambda _: None,
    ) -> Self:
        """Bind the endpoints and publish the first frame of each stream.

        `salt_of` is what the form of vLLM needs.

        Raises:
            UnreachableError: the package that a transport needs is missing.
            UnusableInputError: the endpoint, a key or the epoch file cannot be used.
        """
        if config.role is Role.ENCODE:
            return cls((), ())
        worker_id = config.worker_id or f"{instance_id:x}"
        with ExitStack() as opened:
            ranks = tuple(
                RankStream(
                    also=_open_also(config, rank, salt_of, opened),
                    own=_open(config, info, StreamId(worker_id, rank), opened),
                )
                for rank in range(info.num_ranks)
            )
            opened.pop_all()  # from here on `close` does it
        own = [each.own for each in ranks if each.own is not None]
        return cls(ranks, tuple(_describe(config, info, publisher) for publisher in own))

    def counters(self) -> PublisherCounters | None:
        """What the publishers counted together; from any thread."""
        return _total([rank.own.counters for rank in self.ranks if rank.own is not None])

    def also_counters(self) -> MsgpackCounters | None:
        """What the publishers in vLLM's form counted together; from any thread."""
        return _total([rank.also.counters for rank in self.ranks if rank.also is not None])

    def backlog(self) -> Backlog | None:
        """What all ranks have to send; from any thread."""
        backlogs = [rank.own.backlog for rank in self.ranks if rank.own is not None]
        return reduce(Backlog.with_other, backlogs) if backlogs else None

    def positions(self) -> list[StreamPosition]:
        """The head of each stream, for the health report."""
        return [
            StreamPosition(
                worker_id=publisher.stream.worker_id,
                epoch=publisher.address.epoch,
                head_seq=publisher.head_seq,
                dropped_total=publisher.counters.dropped_events,
                dp_rank=publisher.stream.dp_rank,
            )
            for publisher in (rank.own for rank in self.ranks)
            if publisher is not None
        ]

    def close(self) -> None:
        """Say goodbye; blocks for at most a second or so, safe to call twice."""
        for rank in self.ranks:
            if rank.own is not None:
                rank.own.close("worker shut down")
            if rank.also is not None:
                rank.also.close()


def _total(counters: list[Counters]) -> Counters | None:
    """The sum, field by field; None of nothing."""
    if not counters:
        return None
    rows = [[getattr(each, field.name) for field in fields(each)] for each in counters]
    return type(counters[0])(*(sum(column) for column in zip(*rows, strict=True)))


def _open(
    config: WorkerConfig, info: EngineInfo, stream: StreamId, opened: ExitStack
) -> KvEventPublisher | None:
    """Start a rank's publisher, which `opened` closes where another one cannot be started."""
    if config.kv_events == "none":
        return None
    try:
        publisher = KvEventPublisher(
            stream,
            _info(config, info),
            open_transport(config, stream),
            epoch_file=epoch_file_of(config, stream),
            veil=config.veil(),
        )
        publisher.start()
    except (KvEventsError, ValueError) as error:
        raise UnusableInputError(
            f"--kv-events-endpoint {config.stream_endpoint}: {error}"
        ) from error
    opened.callback(publisher.close, "worker did not start")
    return publisher


def _describe(
    config: WorkerConfig, info: EngineInfo, publisher: KvEventPublisher
) -> StreamDescriptor:
    return StreamDescriptor(
        address=publisher.address,
        role=config.role.value,
        model=config.model_name,
        block_size=info.block_size,
    )


def epoch_file_of(config: StreamOptions, stream: StreamId) -> EpochFile | None:
    """Each rank's stream has epochs of its own."""
    path = config.kv_events_epoch_file
    if not path:
        return None
    return EpochFile(f"{path}.{stream.dp_rank}" if stream.dp_rank else path)


def _port(first: int, rank: int) -> int:
    """Ranks listen one after the other, from a port that was named on; 0 takes free ones."""
    return first + rank if first else 0


def _open_also(
    config: WorkerConfig, rank: int, salt_of: SaltOf, opened: ExitStack
) -> MsgpackPublisher | None:
    """A rank's stream in vLLM's form, where it is asked for; closed by `opened` as above."""
    endpoint = config.msgpack_endpoint
    if endpoint is None:
        return None
    from shepherd_events.foreign.msgpack_publisher import (  # noqa: PLC0415 - imports ZMQ
        MsgpackPublisher,
    )

    replay = endpoint.replay_port
    endpoint = replace(
        endpoint,
        port=_port(endpoint.port, rank),
        replay_port=None if replay is None else _port(replay, rank),
    )
    also = MsgpackPublisher(endpoint, dp_rank=rank, salt_of=salt_of)
    try:
        also.start()
    except KvEventsError as error:
        raise UnusableInputError(f"--kv-events-also {config.kv_events_also}: {error}") from error
    opened.callback(also.close)
    log.info("blocks in vLLM's form at %s, replays at %s", also.live, also.replay or "none")
    return also


def open_transport(config: StreamOptions, stream: StreamId) -> PublisherTransport:
    """The wire that options name; only the chosen one's packages are imported.

    Raises:
        UnreachableError: the package that it needs is missing.
        KvEventsError: the endpoint or a key cannot be used.
    """
    if config.kv_events == "nats":
        return _nats_transport(config, stream)
    from shepherd_events.transports.zmq import ZmqPublisherTransport  # noqa: PLC0415 - as above

    url = urlsplit(config.stream_endpoint)
    port = _port(url.port or 0, stream.dp_rank)
    return ZmqPublisherTransport(url.hostname or "", port, curve=config.curve_credentials)


def _nats_transport(config: StreamOptions, stream: StreamId) -> PublisherTransport:
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
