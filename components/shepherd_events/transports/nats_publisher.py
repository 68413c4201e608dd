"""The sending end over NATS: live frames by core subscription, kept by JetStream.

    sender's thread          send ──► AckWindow ──┐
    an event loop's thread                        └─► writer ──► JetStream ──► live subject
                             heartbeat ──────────────► core publish
                             control requests ◄─────── core subscription
    a thread of one                └──► answer

While the broker is away frames wait in the window, bounded by bytes, and are
sent when it is back; what the broker had stored already it recognises by its id.
A frame that finds the window full is lost for the log, as `send` says; a replay
from the publisher itself can still bring it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shepherd_events.errors import TransportError
from shepherd_events.events import StreamId
from shepherd_events.transports.ack_window import AckWindow, LoggedFrame
from shepherd_events.transports.credentials import NatsCredentials
from shepherd_events.transports.nats_connection import (
    Subjects,
    check_server,
    open_connection,
)
from shepherd_events.transports.nats_log import NatsLog, Retention, position_of
from shepherd_events.transports.nats_parts import in_parts
from shepherd_events.transports.protocol import Backlog, Endpoints, topic_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

WINDOW_BYTES = 64 << 20
_START_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 2.0
_FRAMES_AT_ONCE = 256
_RETRY_S = 0.2


class NatsPublisherTransport:
    """See `PublisherTransport`; `server` is `nats://HOST:PORT`."""

    kind = "nats"

    def __init__(
        self,
        server: str,
        stream: StreamId,
        *,
        credentials: NatsCredentials | None = None,
        retention: Retention | None = None,
        window_bytes: int = WINDOW_BYTES,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Raises TransportError where `server` may not be used with these credentials."""
        self._server = server
        self._topic = topic_of(stream)
        self._subjects = Subjects.of(stream)
        self._credentials = credentials or NatsCredentials()
        self._retention = retention or Retention()
        check_server(server, self._credentials)
        self._monotonic_ns = monotonic_ns
        self._told = threading.Lock()
        self._window = AckWindow(window_bytes)
        self._fenced = ""
        self._answer: Callable[[bytes], bytes]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client
        self._log: NatsLog
        self._wakeup: asyncio.Event
        self._moved: asyncio.Event
        """The window has become shorter."""
        self._writer: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="kv-events-control")

    @property
    def backlog(self) -> Backlog:
        """Numbered frames that the broker has not acknowledged."""
        with self._told:
            oldest_ns = self._window.oldest_told_ns
            age_ns = 0 if oldest_ns is None else self._monotonic_ns() - oldest_ns
            return Backlog(len(self._window), self._window.num_bytes, age_ns / 1e9)

    @property
    def num_refused(self) -> int:
        """The broker turns readers away, and counts them."""
        return 0

    def last_epoch(self) -> int:
        """Connect, and read the epoch of the last frame in the log."""
        self._connect()
        return position_of(self._window.log_end).epoch

    def bind(self, answer: Callable[[bytes], bytes]) -> Endpoints:
        """Connect, have the log exist and answer control requests."""
        self._answer = answer
        self._connect()
        self._reach(self._serve())
        return Endpoints(
            live=f"{self._server}/{self._subjects.live}",
            control=f"{self._server}/{self._subjects.control}",
        )

    def send(self, topic: str, payload: bytes, frame_id: str = "") -> None:
        """Hand a numbered frame to the log, any other to whoever listens."""
        if self._fenced:
            raise TransportError(self._fenced)
        assert self._loop is not None, "bind() comes first"
        if topic == self._topic and frame_id:
            frame = LoggedFrame(self._subjects.live, payload, frame_id, self._monotonic_ns())
            with self._told:
                taken = self._window.add(frame)
            if not taken:
                raise TransportError(
                    f"{self._server} has not taken the last {self._window.num_bytes} bytes"
                )
            self._loop.call_soon_threadsafe(self._wakeup.set)
        else:
            subject = self._subjects.heartbeat if topic == self._topic else topic
            self._loop.call_soon_threadsafe(self._publish_core, subject, payload)

    def close(self) -> None:
        """Let the broker take what waits, for a second or two, and leave."""
        if self._loop is None:
            return
        try:
            self._call(self._leave())
        except (TimeoutError, nats.errors.Error) as error:
            logger.warning("broker not left in order: %r", error)
        self._stop()

    # ---- In the loop's thread

    async def _open(self) -> None:
        async with asyncio.timeout(_START_TIMEOUT_S):
            self._client = await open_connection(
                self._server, self._credentials, "shepherd publisher"
            )
        self._log = NatsLog(self._client, self._subjects)
        try:
            await self._log.create(self._retention)
            self._window.rebase(await self._log.end())
        except BaseException:
            await self._client.close()
            raise

    async def _serve(self) -> None:
        self._wakeup, self._moved = asyncio.Event(), asyncio.Event()
        try:
            await self._client.subscribe(self._subjects.control, cb=self._on_request)
            await self._client.flush()
        except BaseException:
            await self._client.close()
            raise
        self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _on_request(self, request: Msg) -> None:
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._answering, self._answer, request.data)
        for payload, headers in in_parts(reply, self._client.max_payload):
            await self._client.publish(request.reply, payload, headers=headers)

    def _publish_core(self, subject: str, payload: bytes) -> None:
        if self._client.is_connected:
            task = asyncio.ensure_future(self._client.publish(subject, payload))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _write(self) -> None:
        """Bring the window's frames into the log until cancelled."""
        while True:
            with self._told:
                due = self._window.send(_FRAMES_AT_ONCE)
            if not due:
                await self._wakeup.wait()
                self._wakeup.clear()
                continue
            try:
                stored = await self._log.append(due)
                if stored:
                    with self._told:
                        self._window.acknowledge(due[stored - 1].frame.frame_id)
                    self._moved.set()
                if stored < len(due):
                    await self._resume()
            except (OSError, TimeoutError, nats.errors.Error) as error:
                logger.info("frames wait for the broker: %r", error)
                with self._told:
                    self._window.rewind()
                await asyncio.sleep(_RETRY_S)

    async def _resume(self) -> None:
        """Find out where the log ends, and go on from there, unless it is somebody else's now."""
        end = await self._log.end()
        with self._told:
            self._window.rewind()
            if end == self._window.log_end or self._window.acknowledge(end):
                return
            ours = position_of(self._window.send(1)[0].frame.frame_id)
            self._window.rebase(end)
        if position_of(end).epoch > ours.epoch:
            self._fenced = f"epoch {ours.epoch} is over: epoch {position_of(end).epoch} publishes"
            logger.critical("this publisher stops: %s", self._fenced)
            await asyncio.Event().wait()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while len(self._window) and not self._fenced:
                    await self._moved.wait()
                    self._moved.clear()
        finally:
            writer = [] if self._writer is None else [self._writer]
            for task in writer:
                task.cancel()
            await asyncio.gather(*writer, *self._publishing, return_exceptions=True)
            await self._client.close()

    # ---- Between the threads

    def _connect(self) -> None:
        """Start the loop's thread and open the log, once."""
        if self._loop is not None:
            return
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="kv-events-nats", daemon=True
        )
        self._thread.start()
        self._reach(self._open())

    def _reach(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self._call(work)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            self._stop()
            silent = "no answer in time" if isinstance(error, TimeoutError) else repr(error)
            reason = str(error) or silent
            raise TransportError(f"cannot publish through {self._server}: {reason}") from error

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None
        self._answering.shutdown(wait=False, cancel_futures=True)
