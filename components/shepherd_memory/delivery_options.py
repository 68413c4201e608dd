"""The options of what is done when turns were archived: what is told, to whom, what is extracted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shepherd_auth.errors import CredentialFileError
from shepherd_auth.options import AccessOptions
from shepherd_auth.private_file import read_private
from shepherd_config import OptionError, option
from shepherd_memory.notice_events import endpoint_of
from shepherd_memory.notice_text import NoticeTemplate
from shepherd_memory.webhook import Webhook, read_webhooks

MAX_SUMMARISED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOptions(AccessOptions):
    """Notices' words and where they go; inherited by the memory service's configuration."""

    notice_template: str = option(
        "What a session is told, one line; {topic} is replaced, {num_turns} may be.",
        default=NoticeTemplate.DEFAULT,
        group="notices",
    )
    webhooks_file: str = option(
        "File of mode 600 with a JSON list of objects with tenant, url and secret; "
        "each tenant's notices are posted there.",
        default="",
        group="notices",
    )
    webhook_allow_hosts: tuple[str, ...] = option(
        "Hosts, addresses or networks that webhooks may reach though they are not public.",
        default=(),
        group="notices",
    )
    notice_events: str = option(
        "Address (such as tcp://127.0.0.1:5569) on which notices are published as a KV event "
        "stream; empty publishes none.",
        default="",
        group="notices",
    )

    extract_url: str = option(
        "OpenAI-compatible endpoint (such as http://127.0.0.1:8000/v1) that reads archived turns "
        "for facts; empty reads none.",
        default="",
        group="extraction",
    )
    extract_model: str = option("Model to ask there.", default="", group="extraction")
    extract_key_file: str = option(
        "File of mode 600 with the key to show there.", default="", group="extraction"
    )

    summarise_turns: int = option(
        "Has the same model summarise each conversation, so many archived turns at a time; 0 "
        "summarises none.",
        default=0,
        unit="turns",
        group="extraction",
    )

    def extract_key(self) -> str:
        """What is shown to the endpoint; empty where nothing is.

        Raises:
            OptionError: the file cannot be used.
        """
        path = self.extract_key_file
        if not path:
            return ""
        try:
            return read_private(Path(path).expanduser()).decode().strip()
        except (CredentialFileError, UnicodeDecodeError) as error:
            raise OptionError("--extract-key-file", path, f"a usable file: {error}") from error

    def webhooks(self) -> tuple[Webhook, ...]:
        """Where tenants' notices go.

        Raises:
            OptionError: the file cannot be used.
        """
        path = self.webhooks_file
        if not path:
            return ()
        try:
            return read_webhooks(Path(path).expanduser())
        except CredentialFileError as error:
            raise OptionError(
                "--webhooks-file", path, f"a usable file: it {error.problem}"
            ) from error

    def check_delivery(self) -> None:
        """Check the options.

        Raises:
            OptionError: the template has no topic, or a file cannot be used.
        """
        self.template()
        self.webhooks()
        self._check_notice_events()
        self.extract_key()
        if bool(self.extract_url) != bool(self.extract_model):
            raise OptionError(
                "--extract-url", self.extract_url, "--extract-model and it, or neither"
            )
        self._check_summaries()

    def _check_summaries(self) -> None:
        turns = self.summarise_turns
        if turns != 0 and not 2 <= turns <= MAX_SUMMARISED:
            raise OptionError("--summarise-turns", turns, f"0, or from 2 to {MAX_SUMMARISED}")
        if turns and not self.extract_url:
            raise OptionError("--summarise-turns", turns, "--extract-url with it")

    def _check_notice_events(self) -> None:
        if not self.notice_events:
            return
        try:
            endpoint_of(self.notice_events)
        except ValueError as error:
            raise OptionError("--notice-events", self.notice_events, str(error)) from error

    def template(self) -> NoticeTemplate:
        """What a session is told.

        Raises:
            OptionError: it has no {topic}, or something else in braces.
        """
        try:
            return NoticeTemplate(self.notice_template)
        except ValueError as error:
            raise OptionError("--notice-template", self.notice_template, str(error)) from error
