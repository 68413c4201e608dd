"""The options of what is told, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shepherd_auth.errors import CredentialFileError
from shepherd_auth.options import AccessOptions
from shepherd_config import OptionError, option
from shepherd_memory.notice_text import NoticeTemplate
from shepherd_memory.webhook import Webhook, read_webhooks


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

    def template(self) -> NoticeTemplate:
        """What a session is told.

        Raises:
            OptionError: it has no {topic}, or something else in braces.
        """
        try:
            return NoticeTemplate(self.notice_template)
        except ValueError as error:
            raise OptionError("--notice-template", self.notice_template, str(error)) from error
