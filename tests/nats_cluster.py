"""Three real nats-servers that keep one another's logs."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import nats
import nats.errors

from nats_broker import NatsBroker
from shepherd_cli.stack import free_port

SIZE = 3


class NatsCluster:
    """Brokers that know one another; each may be killed and started again."""

    def __init__(self, directory: Path) -> None:
        routes = [free_port() for _ in range(SIZE)]
        known = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.brokers = []
        for number, route in enumerate(routes):
            place = directory / f"n{number}"
            place.mkdir()
            config = (
                f'server_name: "n{number}"\n'
                f'cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{known}] }}'
            )
            self.brokers.append(NatsBroker(place, config))

    def start(self) -> None:
        """All of them; returns when the port of each is open."""
        for broker in self.brokers:
            broker.start()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    async def is_ready(self, at: NatsBroker) -> None:
        """Return when the brokers have chosen who leads them."""
        deadline = time.monotonic() + 15
        client = await nats.connect(at.url)
        try:
            while True:
                with suppress(TimeoutError, nats.errors.Error):
                    await client.jetstream(timeout=0.5).account_info()
                    return
                assert time.monotonic() < deadline, "no leader was chosen"
        finally:
            await client.close()

    async def leader_of(self, at: NatsBroker, log: str) -> NatsBroker:
        """The broker that orders what is written to a log."""
        client = await nats.connect(at.url)
        try:
            info = await client.jetstream().stream_info(log)
        finally:
            await client.close()
        assert info.cluster is not None
        assert info.cluster.leader is not None
        return self.brokers[int(info.cluster.leader.removeprefix("n"))]
