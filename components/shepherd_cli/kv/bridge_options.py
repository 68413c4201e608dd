"""The options of `shepherd kv bridge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from shepherd_config import OptionError, Resolved, load, option
from shepherd_config.addresses import is_loopback
from shepherd_worker.stream_options import StreamOptions


@dataclass(frozen=True, kw_only=True)
class BridgeOptions(StreamOptions):
    """Which publisher is read, and where its streams are published."""

    source: str = option("Where a foreign publisher sends: tcp://HOST:PORT.", group="source")
    format: Literal["vllm", "sglang", "dynamo-trtllm"] = option(
        "What the publisher speaks.", default="vllm", group="source"
    )
    replay: str = option(
        "Where it repeats what it sent: tcp://HOST:PORT; empty where it does not.",
        default="",
        group="source",
    )
    topic: str = option("Topic that it sends under; empty takes all.", default="", group="source")
    trust_network: bool = option(
        "Read a source beyond this machine, although its wire knows no keys.",
        default=False,
        group="source",
    )
    harmless_events: tuple[str, ...] = option(
        "Kinds of events that change no cache; after another unknown kind all blocks count as gone.",
        default=(),
        group="source",
    )
    probe_s: float = option(
        "Seconds of silence after which a replay is asked for.",
        default=5.0,
        minimum=0.05,
        group="source",
    )
    gone_after_s: float = option(
        "Seconds without a connection after which the source's blocks count as gone.",
        default=10.0,
        minimum=0.0,
        group="source",
    )
    model: str = option(
        "Name of the model; streams of one model hash equally.", default="foreign", group="blocks"
    )
    rank: int = option(
        "Rank of messages that do not say theirs.",
        default=0,
        minimum=0,
        maximum=4095,
        group="blocks",
        unit="rank",
    )
    block_size: int = option(
        "Tokens of a block, which lets the stream begin at once; 0 learns it from the first blocks.",
        default=0,
        minimum=0,
        group="blocks",
        unit="tokens",
    )
    max_blocks: int = option(
        "Blocks held at most, of each rank.",
        default=1_000_000,
        minimum=1,
        group="blocks",
        unit="blocks",
    )
    kv_events_endpoint: str = option(
        "Where to: tcp://HOST:PORT, rank R listens on PORT + R, port 0 takes free ones; or nats://HOST:PORT; "
        "beyond loopback with keys only.",
        default="tcp://127.0.0.1:0",
        aliases=("--publish",),
        group="events",
    )
    register: str = option(
        "NAMESPACE.COMPONENT under which Dynamo's discovery shows the streams, as a worker's, with "
        "--block-size and --tokenizer beside it; empty does not.",
        default="",
        group="discovery",
    )
    tokenizer: str = option(
        "Directory of the model's tokenizer, which readers of a registered stream ask for.",
        default="",
        group="discovery",
    )
    host: str = option(
        "Address of this machine by which readers that found it ask.",
        default="127.0.0.1",
        group="discovery",
    )
    discovery_backend: Literal["etcd", "file", "mem", "kubernetes"] = option(
        "Where it is registered.",
        default="file",
        env=("DYN_DISCOVERY_BACKEND",),
        group="discovery",
    )
    request_plane: Literal["tcp", "nats"] = option(
        "How readers ask it.", default="tcp", env=("DYN_REQUEST_PLANE",), group="discovery"
    )
    metrics_port: int | None = option(
        "Loopback port of the metrics; 0 takes a free one.",
        default=None,
        minimum=0,
        maximum=65535,
        group="events",
        unit="port",
    )


def load_options(
    argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> Resolved[BridgeOptions]:
    """Resolve and cross-check the options; the source may stand first, without its flag.

    Raises:
        OptionError: a wrong flag, variable or key.
        UnusableInputError: a file of keys that cannot be used.
        UnreachableError: a package is missing.
    """
    if argv and not argv[0].startswith("-"):
        argv = ["--source", *argv]
    resolved = load(
        BridgeOptions,
        prog="shepherd kv bridge",
        section="bridge",
        description="Read the KV events of vLLM, SGLang or Dynamo's TensorRT-LLM worker and publish them as "
        "Shepherd's, with replay, snapshots and heartbeats.",
        argv=argv,
        environ=environ,
    )
    options = resolved.config
    scheme = urlsplit(options.kv_events_endpoint).scheme
    if scheme not in {"tcp", "nats"}:
        expected = "tcp://HOST:PORT or nats://HOST:PORT"
        raise OptionError("--publish", options.kv_events_endpoint, expected)
    options = replace(options, kv_events="zmq" if scheme == "tcp" else "nats")
    _check_source(options)
    _check_registration(options)
    options.check_stream()
    return replace(resolved, config=options)


def _check_registration(options: BridgeOptions) -> None:
    if not options.register:
        return
    if options.register.count(".") != 1:
        raise OptionError("--register", options.register, "NAMESPACE.COMPONENT")
    for flag, value in (("--block-size", options.block_size), ("--tokenizer", options.tokenizer)):
        if not value:
            raise OptionError(flag, value, "a value with --register: readers ask at once")


def _check_source(options: BridgeOptions) -> None:
    for flag, url in (("--source", options.source), ("--replay", options.replay)):
        if not url and flag == "--replay":
            continue
        parts = urlsplit(url)
        try:
            is_address = parts.scheme == "tcp" and bool(parts.hostname and parts.port)
        except ValueError:
            is_address = False
        if not is_address:
            raise OptionError(flag, url, "tcp://HOST:PORT")
        if not is_loopback(parts.hostname or "") and not options.trust_network:
            raise OptionError(
                flag,
                url,
                "a loopback address, or --trust-network: whoever reaches it can pretend to publish",
            )
    if options.kv_events_also:
        raise OptionError("--kv-events-also", options.kv_events_also, "nothing: the source does it")
