"""The memory service's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shepherd_config import OptionError, Resolved, load, option
from shepherd_events.errors import CredentialsError
from shepherd_events.transports.credentials import (
    CurveCredentials,
    NatsCredentials,
    ReaderCredentials,
)
from shepherd_http.options import HttpOptions
from shepherd_memory.archive_options import ArchiveOptions
from shepherd_memory.keeping import Keeping
from shepherd_telemetry.options import TelemetryOptions

if TYPE_CHECKING:
    from shepherd_events.tenant_keys import TenantKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig(HttpOptions, ArchiveOptions, TelemetryOptions):
    """Everything that can be said to the memory service; see `--help`."""

    data_dir: str = option(
        "Directory of the archive; made when missing.", default="shepherd-memory"
    )
    http_port: int = 8765
    admin_port: int | None = 8766
    tenant_max_mb: int = option(
        "Size of a tenant's store from which on its facts and memories are refused; 0 is without limit.",
        default=0,
        minimum=0,
        unit="MiB",
    )
    archive_max_mb: int = option(
        "Text of archived turns that is kept of a tenant; what was of least use lately goes first; 0 keeps all.",
        default=0,
        minimum=0,
        unit="MiB",
    )
    archive_max_turns: int = option(
        "Archived turns that are kept of a tenant; 0 keeps all.",
        default=0,
        minimum=0,
        unit="turns",
    )
    archive_max_days: int = option(
        "Days after which an archived turn that nobody recalled goes; 0 keeps all.",
        default=0,
        minimum=0,
        unit="days",
    )
    embedder: str = option(
        "Model of the vectors: none, wordllama, a sentence-transformers directory, or an embeddings endpoint as https://host/v1#model.",
        default="none",
    )
    embedder_key_file: str = option("File with the API key of the embeddings endpoint.", default="")
    reranker: str = option(
        "Directory of a model that reads the best 50 hits once more: a cross-encoder, or a sentence-transformers model that compares token by token; or none.",
        default="none",
    )
    settle_s: float = option(
        "Seconds after a start in which a worker may show up again before its blocks count as gone.",
        default=15.0,
        minimum=0,
    )

    archive_grace_s: float = option(
        "Seconds that a turn must stay evicted before it is archived; 0 archives it at once.",
        default=1.0,
        minimum=0,
    )

    namespace: str = option(
        "Dynamo namespace.", default="dynamo", env=("DYN_NAMESPACE",), group="dynamo"
    )
    components: tuple[str, ...] = option(
        "Dynamo components whose workers are listened to.",
        default=("backend", "prefill"),
        group="dynamo",
    )
    discovery_backend: Literal["etcd", "file", "mem", "kubernetes"] = option(
        "Where workers are found.",
        default="file",
        aliases=("--store-kv",),
        env=("DYN_DISCOVERY_BACKEND",),
        group="dynamo",
    )
    request_plane: Literal["tcp", "nats"] = option(
        "How workers are asked for their streams.",
        default="tcp",
        env=("DYN_REQUEST_PLANE",),
        group="dynamo",
    )

    kv_events_curve_file: str = option(
        "For workers that publish over zmq beyond loopback: file of mode 600 with this service's CURVE key pair.",
        default="",
        group="events",
    )
    kv_events_curve_server: str = option(
        "File with the public CURVE key that all those workers have.", default="", group="events"
    )
    kv_events_tls: bool = option(
        "Speak to the workers' NATS broker over TLS, also on this machine.",
        default=False,
        group="events",
    )
    kv_events_ca_file: str = option(
        "Certificates of the authority that signed the broker's; empty takes the system's.",
        default="",
        group="events",
    )
    kv_events_nkey_file: str = option(
        "File with the NKEY seed that this service shows the broker.", default="", group="events"
    )

    kv_events_keys_file: str = option(
        "File of mode 600 with the tenants' keys, TENANT and 64 hex digits per line, that open what workers encrypt.",
        default="",
        group="events",
    )

    @property
    def credentials(self) -> ReaderCredentials:
        """What is shown to publishers and brokers."""
        curve = None
        if self.kv_events_curve_file:
            curve = CurveCredentials(self.kv_events_curve_file, self.kv_events_curve_server)
        return ReaderCredentials(
            curve=curve,
            nats=NatsCredentials(
                ca_file=self.kv_events_ca_file,
                nkey_seed_file=self.kv_events_nkey_file,
                tls=self.kv_events_tls,
            ),
        )

    def tenant_keys(self) -> TenantKeys | None:
        """The keys that open workers' tokens, if there are any.

        Raises:
            OptionError: the file cannot be used, or the package that it needs is missing.
        """
        path = self.kv_events_keys_file
        if not path:
            return None
        try:
            from shepherd_events.tenant_keys import TenantKeys  # noqa: PLC0415 - an extra

            return TenantKeys.load(path)
        except (CredentialsError, ModuleNotFoundError) as error:
            raise OptionError(
                "--kv-events-keys-file", path, "a file of keys", f"; {error}"
            ) from error

    @property
    def embedder_key(self) -> str:
        """The API key of the embeddings endpoint; empty where there is none.

        Raises:
            OptionError: the file cannot be read.
        """
        path = self.embedder_key_file
        if not path:
            return ""
        try:
            return Path(path).expanduser().read_text().strip()
        except OSError as error:
            raise OptionError("--embedder-key-file", path, "a readable file") from error

    @property
    def keeping(self) -> Keeping:
        """How much of each archive is kept."""
        return Keeping(
            max_bytes=self.archive_max_mb << 20 or None,
            max_turns=self.archive_max_turns or None,
            max_days=self.archive_max_days or None,
        )

    @property
    def data_path(self) -> Path:
        """`data_dir` with ~ resolved."""
        return Path(self.data_dir).expanduser()


def load_config(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Resolved[MemoryConfig]:
    """Resolve and cross-check the options.

    Raises:
        OptionError: a wrong flag, variable or key, an address that is not loopback, keys that
            cannot be used.
    """
    resolved = load(
        MemoryConfig,
        prog="python -m shepherd_memory",
        section="memory",
        description="Archive what the workers' KV caches forget, and make it searchable.",
        argv=argv,
        environ=environ,
    )
    config = resolved.config
    config.check_access(http_host=config.http_host, admin_host=config.admin_host)
    config.check_delivery()
    config.check_telemetry()
    config.check_archive()
    _check_curve(config)
    config.tenant_keys()
    _check_models(config)
    return resolved


def _check_models(config: MemoryConfig) -> None:
    named = config.embedder
    is_endpoint = named.startswith(("http://", "https://")) and bool(named.partition("#")[2])
    if not (named in {"none", "wordllama"} or is_endpoint or Path(named).is_dir()):
        raise OptionError(
            "--embedder", named, "none, wordllama, a model's directory, or https://host/v1#model"
        )
    if config.reranker != "none" and not Path(config.reranker).is_dir():
        raise OptionError("--reranker", config.reranker, "none or a model's directory")
    _ = config.embedder_key


def _check_curve(config: MemoryConfig) -> None:
    curve = config.credentials.curve
    if (curve is None) != (not config.kv_events_curve_server) or (curve and not curve.peers):
        raise OptionError(
            "--kv-events-curve-file",
            config.kv_events_curve_file,
            "--kv-events-curve-server and it, or neither",
        )
    if curve is not None:
        from shepherd_events.transports.zmq_curve import reader_keys  # noqa: PLC0415 - only with zmq

        try:
            reader_keys(curve)
        except CredentialsError as error:
            raise OptionError("--kv-events-curve-file, -server", error.path, str(error)) from error
