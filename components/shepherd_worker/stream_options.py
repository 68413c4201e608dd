"""The worker's options about its KV event stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from shepherd_config import OptionError, option
from shepherd_config.addresses import is_loopback
from shepherd_events.errors import CredentialsError
from shepherd_events.foreign.msgpack_endpoint import MsgpackEndpoint
from shepherd_events.privacy import Encrypted, Hashed, IdsOnly, NoVeil, Privacy, Veil
from shepherd_events.transports.credentials import CurveCredentials, NatsCredentials
from shepherd_worker.errors import UnreachableError, UnusableInputError

DEFAULT_ENDPOINTS = {"zmq": "tcp://127.0.0.1:0", "nats": "nats://127.0.0.1:4222", "none": ""}
_SCHEMES = {"zmq": "tcp", "nats": "nats", "none": ""}


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Where the stream goes, and who may read it.

    Without slots of its own: a class cannot have two bases with slots.
    """

    kv_events: Literal["zmq", "nats", "none"] = option(
        "How the KV event stream is published; over nats it outlives the worker.",
        default="zmq",
        group="events",
    )
    kv_events_endpoint: str = option(
        "Where: tcp://HOST:PORT for zmq, port 0 takes a free one; nats://HOST:PORT of the broker for nats; "
        "empty takes this machine; beyond loopback with keys only.",
        default="",
        group="events",
    )
    kv_events_curve_file: str = option(
        "For zmq: file of mode 600 with this worker's CURVE key pair.", default="", group="events"
    )
    kv_events_curve_readers: str = option(
        "For zmq: directory with the public keys (*.key) of the readers that may connect.",
        default="",
        group="events",
    )
    kv_events_tls: bool = option(
        "Speak to the broker over TLS, also on this machine.", default=False, group="events"
    )
    kv_events_ca_file: str = option(
        "Certificates of the authority that signed the broker's; empty takes the system's.",
        default="",
        group="events",
    )
    kv_events_nkey_file: str = option(
        "File with the NKEY seed that this worker shows the broker.", default="", group="events"
    )
    kv_events_replicas: int = option(
        "For nats: brokers that keep the stream's log; with 3 it outlives any one of them.",
        default=1,
        minimum=1,
        maximum=5,
        group="events",
        unit="brokers",
    )
    kv_events_epoch_file: str = option(
        "File that keeps the stream's last epoch, for a --worker-id that comes back after the clock was set back; "
        "empty has none, and over nats the broker's log knows it as well.",
        default="",
        group="events",
    )
    kv_events_privacy: Literal["auto", "full", "encrypted", "ids-only", "hashed"] = option(
        "What readers may know: full has tokens in clear, encrypted under a key of their tenant, ids-only none, "
        "hashed none and every id under a keyed hash; auto is full on this machine, and beyond it "
        "encrypted with --kv-events-keys-file, else ids-only.",
        default="auto",
        group="events",
    )
    kv_events_keys_file: str = option(
        "File of mode 600 with TENANT and 64 hex digits per line, * for any other tenant; hashed takes the key of *.",
        default="",
        group="events",
    )
    kv_events_also: str = option(
        "vllm://HOST:PORT?replay=PORT&topic=TOPIC publishes blocks in vLLM's form as well, for readers that know no "
        "other, on a loopback address and with tokens in clear; port 0 takes a free one, empty has none.",
        default="",
        group="events",
    )
    worker_id: str = option(
        "Name of the stream; empty takes Dynamo's instance id.", default="", group="events"
    )

    @property
    def stream_endpoint(self) -> str:
        """Where the stream goes, the default filled in; empty where there is none."""
        return self.kv_events_endpoint or DEFAULT_ENDPOINTS[self.kv_events]

    @property
    def curve_credentials(self) -> CurveCredentials | None:
        """The keys for ZMQ, if there are any."""
        if not self.kv_events_curve_file:
            return None
        return CurveCredentials(self.kv_events_curve_file, self.kv_events_curve_readers)

    @property
    def nats_credentials(self) -> NatsCredentials:
        """The files for NATS."""
        return NatsCredentials(
            ca_file=self.kv_events_ca_file,
            nkey_seed_file=self.kv_events_nkey_file,
            tls=self.kv_events_tls,
        )

    @property
    def msgpack_endpoint(self) -> MsgpackEndpoint | None:
        """Where blocks are published in vLLM's form, if anywhere."""
        return MsgpackEndpoint.parse(self.kv_events_also) if self.kv_events_also else None

    @property
    def privacy(self) -> Privacy:
        """The mode that auto stands for, or the one that was asked for."""
        if self.kv_events_privacy != "auto":
            return Privacy(self.kv_events_privacy)
        if is_loopback(urlsplit(self.stream_endpoint).hostname or ""):
            return Privacy.FULL
        return Privacy.ENCRYPTED if self.kv_events_keys_file else Privacy.IDS_ONLY

    def veil(self) -> Veil:
        """What readers may know.

        Raises:
            OptionError: the mode needs keys that are not there.
            CredentialsError: the file of keys cannot be used.
            ModuleNotFoundError: encrypted, without the package that it needs.
        """
        match self.privacy:
            case Privacy.FULL:
                return NoVeil()
            case Privacy.IDS_ONLY:
                return IdsOnly()
        if not self.kv_events_keys_file:
            raise OptionError(
                "--kv-events-privacy", self.privacy.value, "--kv-events-keys-file beside it"
            )
        # an extra
        from shepherd_events.tenant_keys import ANY_TENANT, Sealer, TenantKeys  # noqa: PLC0415

        keys = TenantKeys.load(self.kv_events_keys_file)
        if self.privacy is Privacy.ENCRYPTED:
            return Encrypted(Sealer(keys))
        key = keys.sealing(ANY_TENANT)
        if key is None:
            raise OptionError(
                "--kv-events-privacy", "hashed", "a key of * in --kv-events-keys-file"
            )
        return Hashed(key)

    def check_stream(self) -> None:
        """Refuse what cannot work, before a model is loaded.

        Raises:
            OptionError: options that do not go together.
            UnusableInputError: a file of keys that cannot be used.
            UnreachableError: a package is missing.
        """
        endpoint = self.stream_endpoint
        if not endpoint.startswith(_SCHEMES[self.kv_events]):
            expected = f"{_SCHEMES[self.kv_events]}://HOST:PORT with --kv-events {self.kv_events}"
            raise OptionError("--kv-events-endpoint", endpoint, expected)
        if bool(self.kv_events_curve_file) != bool(self.kv_events_curve_readers):
            raise OptionError(
                "--kv-events-curve-file",
                self.kv_events_curve_file,
                "--kv-events-curve-readers and it, or neither",
            )
        self._check_also()
        if self.kv_events == "zmq":
            self._check_listener(urlsplit(endpoint).hostname or "")
        try:
            self.veil()
        except CredentialsError as error:
            raise UnusableInputError(f"--kv-events-keys-file: {error}") from error
        except ModuleNotFoundError as error:
            raise UnreachableError(
                f"--kv-events-privacy {self.privacy} needs the package {error.name}: "
                "pip install 'shepherd-worker[encryption]'"
            ) from error

    def _check_also(self) -> None:
        try:
            endpoint = self.msgpack_endpoint
        except ValueError as error:
            raise OptionError("--kv-events-also", self.kv_events_also, str(error)) from error
        if endpoint is not None and self.kv_events_privacy not in {"auto", "full"}:
            raise OptionError(
                "--kv-events-also",
                self.kv_events_also,
                f"nothing with --kv-events-privacy {self.kv_events_privacy}: this form has tokens in clear",
            )

    def _check_listener(self, host: str) -> None:
        if self.curve_credentials is not None:
            from shepherd_events.transports.zmq_curve import Gate  # noqa: PLC0415 - only with zmq

            try:
                Gate(self.curve_credentials)
            except CredentialsError as error:
                raise UnusableInputError(f"--kv-events-curve-file, -readers: {error}") from error
        elif not is_loopback(host):
            raise OptionError(
                "--kv-events-endpoint",
                self.kv_events_endpoint,
                "a loopback address, or --kv-events-curve-file: whoever reaches it reads the frames",
            )
