"""Which streams a command is about: URLs, or whatever Dynamo's discovery shows.

shepherd kv tail                        every worker of the namespace
shepherd kv tail tcp://127.0.0.1:5557   one stream, without discovery
shepherd kv stats worker-1              one worker of the namespace
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shepherd_cli.kv.terminal import UNREACHABLE, USAGE, CommandError
from shepherd_events.discovery import StreamDirectory, StreamJoined
from shepherd_events.events import StreamAddress
from shepherd_events.follow import FixedDirectory
from shepherd_events.stream_url import StreamUrl, resolve
from shepherd_events.transports import connect
from shepherd_events.transports.credentials import (
    CurveCredentials,
    NatsCredentials,
    ReaderCredentials,
)
from shepherd_events.transports.protocol import Connect

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys

_QUIET_S = 0.75
"""A directory that shows nothing new for so long has shown everything."""

DYNAMO_LOG = "error,dynamo_runtime::storage::kv=off"
"""What is heard of Dynamo: not that its watch has ended, which is ordinary here."""

_DISCOVERY = "Where streams are"
_SECURITY = "Security"


def _option(help_text: str, flag: str, panel: str, *env: str) -> Any:
    return typer.Option(*flag.split(), help=help_text, rich_help_panel=panel, envvar=list(env))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The options that every command has."""

    namespace: Annotated[
        str,
        _option(
            "Dynamo namespace.", "--namespace", _DISCOVERY, "SHEPHERD_NAMESPACE", "DYN_NAMESPACE"
        ),
    ] = "dynamo"
    components: Annotated[
        list[str] | None,
        _option(
            "Dynamo component, backend and prefill if none.",
            "--component --components",
            _DISCOVERY,
        ),
    ] = None
    discovery_backend: Annotated[
        str,
        _option(
            "file, etcd, kubernetes or mem.",
            "--discovery-backend",
            _DISCOVERY,
            "SHEPHERD_DISCOVERY_BACKEND",
            "DYN_DISCOVERY_BACKEND",
        ),
    ] = "file"
    timeout_s: Annotated[
        float, _option("Seconds to look for streams.", "--timeout --timeout-s", _DISCOVERY)
    ] = 5.0
    curve_file: Annotated[
        str,
        _option(
            "Our CURVE keys, for ZMQ beyond loopback.",
            "--curve-file",
            _SECURITY,
            "SHEPHERD_KV_EVENTS_CURVE_FILE",
        ),
    ] = ""
    curve_server: Annotated[
        str,
        _option(
            "The publishers' public CURVE key.",
            "--curve-server",
            _SECURITY,
            "SHEPHERD_KV_EVENTS_CURVE_SERVER",
        ),
    ] = ""
    tls: Annotated[
        bool, _option("TLS to a NATS broker.", "--tls", _SECURITY, "SHEPHERD_KV_EVENTS_TLS")
    ] = False
    ca_file: Annotated[
        str,
        _option(
            "Who signed the broker's key.", "--ca-file", _SECURITY, "SHEPHERD_KV_EVENTS_CA_FILE"
        ),
    ] = ""
    nkey_file: Annotated[
        str,
        _option("Our NKEY seed.", "--nkey-file", _SECURITY, "SHEPHERD_KV_EVENTS_NKEY_FILE"),
    ] = ""

    keys_file: Annotated[
        str,
        _option(
            "Tenants' keys, to see token ids that workers encrypt.",
            "--keys-file",
            _SECURITY,
            "SHEPHERD_KV_EVENTS_KEYS_FILE",
        ),
    ] = ""

    @property
    def keys(self) -> TenantKeys | None:
        """What opens sealed tokens, if there is anything.

        Raises:
            CommandError: an extra is not installed.
            KvEventsError: the file cannot be used.
        """
        if not self.keys_file:
            return None
        try:
            from shepherd_events.tenant_keys import TenantKeys  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise CommandError(USAGE, f"--keys-file needs the package {error.name}") from error
        return TenantKeys.load(self.keys_file)

    @property
    def connect(self) -> Connect:
        """How a stream's address becomes a connection, with these credentials.

        Raises:
            CommandError: only one of two files is named.
        """
        return partial(connect, credentials=self._credentials())

    def _credentials(self) -> ReaderCredentials:
        if bool(self.curve_file) != bool(self.curve_server):
            raise CommandError(USAGE, "--curve-file and --curve-server belong together")
        curve = CurveCredentials(self.curve_file, self.curve_server) if self.curve_file else None
        nats = NatsCredentials(ca_file=self.ca_file, nkey_seed_file=self.nkey_file, tls=self.tls)
        return ReaderCredentials(curve, nats)

    @asynccontextmanager
    async def directory(self, urls: Sequence[str]) -> AsyncIterator[StreamDirectory]:
        """The streams of some URLs or, without any, those of the namespace.

        Raises:
            CommandError: something is no URL.
            KvEventsError, ConnectionError: nobody answers.
        """
        if urls:
            yield FixedDirectory([await self._resolved(url) for url in urls])
            return
        os.environ.setdefault("DYN_LOG", DYNAMO_LOG)
        from shepherd_events.dynamo_directory import (  # noqa: PLC0415 - URLs need no dynamo
            DynamoDirectory,
        )

        directory = DynamoDirectory(
            namespace=self.namespace,
            components=self.components or ["backend", "prefill"],
            discovery_backend=self.discovery_backend,
        )
        await directory.connect()
        try:
            yield directory
        finally:
            directory.close()

    async def addresses(self, targets: Sequence[str]) -> list[StreamAddress]:
        """The streams that URLs and names of workers mean; without any, all that exist now.

        Raises:
            CommandError: something is no URL and no worker, or there is no stream at all.
            KvEventsError, ConnectionError: nobody answers.
        """
        by_target = {url: await self._resolved(url) for url in targets if "://" in url}
        names = [target for target in targets if target not in by_target]
        if targets and not names:
            return [by_target[target] for target in targets]
        async with self.directory(()) as directory:
            present = await self._present(directory)
        if not targets:
            if not present:
                raise CommandError(UNREACHABLE, f"no stream in {self._where()}")
            return present
        for name in names:
            by_target[name] = self._named(name, present)
        return [by_target[target] for target in targets]

    async def _present(self, directory: StreamDirectory) -> list[StreamAddress]:
        """What a directory shows until it falls quiet, the last address of each stream."""
        found: dict[str, StreamAddress] = {}
        events = aiter(directory.watch())
        wait_s = self.timeout_s
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    event = await anext(events)
            except (TimeoutError, StopAsyncIteration):
                return list(found.values())
            if isinstance(event, StreamJoined):
                address = event.descriptor.address
                found[str(address.stream)] = address
                wait_s = _QUIET_S

    def _named(self, name: str, present: Sequence[StreamAddress]) -> StreamAddress:
        meant = [a for a in present if name in {a.stream.worker_id, str(a.stream)}]
        if len(meant) == 1:
            return meant[0]
        known = ", ".join(sorted(str(address.stream) for address in present)) or "none"
        problem = "has several ranks" if meant else "is no URL and no worker"
        raise CommandError(
            UNREACHABLE if not meant else USAGE, f"{name!r} {problem} in {self._where()}: {known}"
        )

    async def _resolved(self, url: str) -> StreamAddress:
        try:
            parsed = StreamUrl.parse(url)
        except ValueError as error:
            raise CommandError(USAGE, str(error)) from error
        return await resolve(parsed, timeout_s=self.timeout_s, credentials=self._credentials())

    def _where(self) -> str:
        components = ", ".join(self.components or ["backend", "prefill"])
        return f"namespace {self.namespace!r} ({components}; {self.discovery_backend} discovery)"


def with_source(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Source` in place of its parameter `source`."""
    names = [field.name for field in fields(Source)]

    @wraps(command)
    def wrapped(**options: Any) -> None:
        source = Source(**{name: options.pop(name) for name in names})
        command(**options, source=source)

    hints = inspect.signature(Source, eval_str=True).parameters
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "source"]
    shared = [hints[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in names]
    wrapped.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined] # typer reads it
    wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    return wrapped
