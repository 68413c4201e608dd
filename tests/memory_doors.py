"""The memory's doors over real connections, with a consumer behind them that does what it is told."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from shepherd_auth.identity import Scope
from shepherd_auth.key_file import KeyFile
from shepherd_auth.tenant_salts import TenantSalts
from shepherd_http.server import url_of
from shepherd_memory import doors
from shepherd_memory.api.app import Status
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.protocol import Archives
from shepherd_memory.clocks import Clocks
from shepherd_memory.config import MemoryConfig
from shepherd_memory.consumer import Consumer
from shepherd_memory.fake import FakeWorker, SpelledTranscript
from shepherd_memory.index_store import IndexStore
from shepherd_memory.memory import Means, Memory
from shepherd_memory.metrics import Metrics
from shepherd_memory.notifier import Bell
from shepherd_memory.search import Searcher
from shepherd_memory.writer import WriterThread

SAID = [
    ("user", "Where do cats sleep?"),
    ("assistant", "Everywhere."),
    ("user", "And dogs?"),
    ("assistant", "On the cat."),
    ("user", "Why?"),
    ("assistant", "It is warm."),
]
ALL_SCOPES = tuple(Scope)


class House:
    """Clients of both ports, and what is behind them."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        admin: aiohttp.ClientSession,
        means: Means,
        consumer: Consumer,
        worker: FakeWorker,
    ) -> None:
        self.client = client
        self.admin = admin
        self.means = means
        self.consumer = consumer
        self.worker = worker
        self.key = ""
        """Shown with every request, where there is one."""

    @property
    def url(self) -> str:
        return str(self.client._base_url).rstrip("/")

    async def call(
        self,
        method: str,
        path: str,
        status: int = 200,
        *,
        json: Any = None,
        key: str | None = None,
        admin: bool = False,
        **headers: str,
    ) -> Any:
        """The answer's document, its text where it is none; the status must be as expected."""
        shown = self.key if key is None else key
        headers |= {"authorization": f"Bearer {shown}"} if shown else {}
        session = self.admin if admin else self.client
        async with session.request(
            method, URL(path, encoded=True), json=json, headers=headers
        ) as answer:
            text = await answer.text()
            assert answer.status == status, f"{method} {path}: {answer.status} {text}"
            if status >= 400:
                assert answer.content_type == "application/problem+json", text
            return await answer.json(content_type=None) if _is_document(answer) else text

    async def get(self, path: str, status: int = 200, **headers: str) -> Any:
        return await self.call("GET", path, status, **headers)

    def talk(self, session: str = "s", tenant: str = "", said: Sequence[Any] = SAID) -> None:
        """A conversation of a tenant, by the salt that its requests carry."""
        self.consumer.apply(self.worker.complete(said, session=session, tenant=tenant))

    def evict(self, tenant: str = "", said: Sequence[Any] = SAID) -> None:
        """Everything but the newest turns goes."""
        self.consumer.apply([self.worker.evict(self.worker.blocks_of(said, salt=tenant)[:9])])
        self.means.bell.ring()

    async def settled(self, question: Any, wanted: Any) -> None:
        deadline = time.monotonic() + 10
        while (answer := await question()) != wanted:
            assert time.monotonic() < deadline, f"{answer} is still not {wanted}"
            await asyncio.sleep(0.01)


def _is_document(answer: aiohttp.ClientResponse) -> bool:
    return answer.content_type in {"application/json", "application/problem+json"}


@asynccontextmanager
async def house(
    directory: Path,
    *,
    archives: Archives | None = None,
    searcher: Searcher | None = None,
    now_unix_ns: int = 7,
    **options: Any,
) -> AsyncIterator[House]:
    """The doors over stores in a directory, or over other ones."""
    options = {"data_dir": str(directory), "http_port": 0, "admin_port": 0} | options
    options.setdefault("rate_limit_per_s", 0.0)
    config = MemoryConfig(**options)
    archives, metrics = archives or SqliteArchives(directory / "tenants"), Metrics()
    clocks, worker = Clocks(unix_ns=lambda: now_unix_ns), FakeWorker()
    consumer = Consumer(
        archives=archives,
        store=IndexStore(Path(":memory:")),
        transcripts={worker.stream: SpelledTranscript()},
        metrics=metrics,
        grace_ns=0,
        clocks=clocks,
    )
    async with doors.bound(config) as listeners, WriterThread() as writer:
        means = Means(
            archives=archives,
            writer=writer,
            bell=Bell(),
            metrics=metrics,
            clocks=clocks,
            template=config.template(),
            replay_dead_letter=lambda _, name: name == "can be applied now",
            caches=consumer,
            searcher=searcher or Searcher(),
            max_tenant_bytes=config.tenant_max_mb << 20,
        )
        assert listeners.admin is not None
        status = Status(lambda: (True, {"status": "ok", "streams": []}), metrics.render)
        public, admin = url_of(listeners.public), url_of(listeners.admin)
        async with (
            Running(doors.opened(config, listeners, means, status)),
            aiohttp.ClientSession(base_url=public) as client,
            aiohttp.ClientSession(base_url=admin) as operator,
        ):
            yield House(client, operator, means, consumer, worker)
    archives.close()


class Running:
    """Enters a block whose tasks run for ever, and cancels them when it is left."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self._ready = asyncio.Event()

    async def __aenter__(self) -> None:
        self._running = asyncio.ensure_future(self._run())
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait([self._running, ready], return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            ready.cancel()
            self._running.result()

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running], timeout=10)
        if not self._running.cancelled():
            self._running.result()

    async def _run(self) -> None:
        async with self._block:
            self._ready.set()


class Tenants:
    """A file of keys and a salt: what the doors need to know several tenants."""

    def __init__(self, directory: Path) -> None:
        self.keys = KeyFile(directory / "keys.json", now_unix_s=time.time)
        salt = directory / "tenant-salt"
        salt.write_text(secrets.token_hex(32))
        salt.chmod(0o600)
        self.salts = TenantSalts.load(str(salt))
        self.operator = self.key("*", Scope.ADMIN)
        self.options = {
            "api_keys_file": str(directory / "keys.json"),
            "tenant_salt_file": str(salt),
            "audit_file": str(directory / "audit.jsonl"),
        }

    def key(self, tenant: str, *scopes: Scope) -> str:
        """The text of a new key, with all scopes if none is named."""
        granted = scopes or ALL_SCOPES
        return self.keys.create(name=tenant, tenant=tenant, scopes=granted, lifetime_s=None)[1]

    def archive_of(self, tenant: str) -> str:
        """What workers call the tenant."""
        return self.salts.stream_name_of(tenant)

    def memory(self, house: House, tenant: str) -> Memory:
        return Memory(self.archive_of(tenant), house.means)
