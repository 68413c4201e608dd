"""The receiving end over NATS: live by core subscription, the past from whoever has it.

A request goes to the publisher; when nobody answers there, or its heir who knows of its
own epoch alone, a replay is read from JetStream, so that what a dead publisher had said
can still be had.  The broker
need not be there yet, and may go and come back.
"""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shepherd_events.codec import decode_reply, decode_request, encode_reply
from shepherd_events.control import ReplayReply, ReplayRequest, Status
from shepherd_events.errors import CodecError, NoAnswerError, TransportError
from shepherd_events.events import StreamAddress
from shepherd_events.transports.credentials import NatsCredentials
from shepherd_events.transports.nats_connection import (
    Subjects,
    check_server,
    open_connection,
    server_of,
)
from shepherd_events.transports.nats_log import NatsLog
from shepherd_events.transports.nats_parts import HEADER, Assembly

logger = logging.getLogger(__name__)

MAX_WAITING_FRAMES = 1000
_RETRY_S = 0.5
_MAX_REFUSAL_BYTES = 4096
"""Longer replies bring something."""


class NatsSubscriberTransport:
    """See `SubscriberTransport`."""

    def __init__(self, address: StreamAddress, credentials: NatsCredentials | None = None) -> None:
        """Raises TransportError where the address names no broker, or one that needs credentials."""
        self._address = address
        self._server = server_of(address)
        self._credentials = credentials or NatsCredentials()
        check_server(self._server, self._credentials)
        self._subjects = Subjects.of(address.stream)
        self._frames: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING_FRAMES)
        self._connecting = asyncio.ensure_future(self._connect())

    async def receive(self) -> bytes:
        """The next frame or heartbeat."""
        return await self._frames.get()

    def renew(self) -> None:
        """The client pings its broker and connects anew by itself."""

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Ask the publisher, and JetStream in its absence."""
        try:
            async with asyncio.timeout(timeout_s):
                client = await asyncio.shield(self._connecting)
                try:
                    reply = await self._ask(client, payload)
                    return await self._rest_of_epoch(client, payload, reply) or reply
                except nats.errors.NoRespondersError:
                    logged = await self._from_log(client, payload)
                    if logged is not None:
                        return logged
        except TimeoutError:
            pass
        except (OSError, ValueError, nats.errors.Error) as error:
            raise TransportError(f"{self._address.control}: {error!r}") from error
        raise NoAnswerError(self._address.control, timeout_s)

    async def close(self) -> None:
        """Leave the broker."""
        if not self._connecting.done():
            self._connecting.cancel()
        (client,) = await asyncio.gather(self._connecting, return_exceptions=True)
        if isinstance(client, Client):
            await client.close()

    async def _connect(self) -> Client:
        while True:
            try:
                client = await open_connection(self._server, self._credentials, "shepherd reader")
            except (OSError, nats.errors.Error) as error:
                logger.info("broker %s: %r", self._server, error)
                await asyncio.sleep(_RETRY_S)
                continue
            for subject in (self._subjects.live, self._subjects.heartbeat):
                await client.subscribe(subject, cb=self._on_message)
            return client

    async def _on_message(self, message: Msg) -> None:
        try:
            self._frames.put_nowait(message.data)
        except asyncio.QueueFull:
            logger.debug("frame dropped: the reader is behind")

    async def _ask(self, client: Client, payload: bytes) -> bytes:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        try:
            await client.publish(self._subjects.control, payload, reply=inbox)
            assembly = Assembly()
            while True:
                part = await answers.next_msg(timeout=None)
                if part.headers and part.headers.get("Status") == "503":
                    raise nats.errors.NoRespondersError
                reply = assembly.add(part.data, (part.headers or {}).get(HEADER))
                if reply is not None:
                    return reply
        finally:
            await answers.unsubscribe()

    async def _rest_of_epoch(self, client: Client, payload: bytes, reply: bytes) -> bytes | None:
        """Where the publisher knows nothing of an epoch before its own, what the log has of it."""
        if len(reply) > _MAX_REFUSAL_BYTES:
            return None
        try:
            answer = decode_reply(reply)
        except CodecError:
            return None
        if not isinstance(answer, ReplayReply) or answer.status is not Status.WRONG_EPOCH:
            return None
        return await self._from_log(client, payload)

    async def _from_log(self, client: Client, payload: bytes) -> bytes | None:
        try:
            request = decode_request(payload)
        except CodecError:
            return None
        if not isinstance(request, ReplayRequest):
            return None
        reply = await NatsLog(client, self._subjects).replay(request)
        return None if reply is None else encode_reply(reply)
