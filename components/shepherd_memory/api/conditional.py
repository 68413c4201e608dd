"""Answers that a client has already, and writes that it has made already.

GET: a strong ETag over the body; `If-None-Match` with it gives 304.

POST, PUT, DELETE with `Idempotency-Key`: the first answer below 500 is kept and
given again to whoever repeats the request within an hour.  The same key with
another request is a 422, while the first is still under way a 409.  Every write
of ours may be repeated without a key as well; the key keeps a late repetition
from undoing what came in between.  Keys are kept in memory: a restart forgets
them.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from shepherd_memory.api.access import gate_of
from shepherd_memory.errors import ConflictError, InvalidParameterError

MAX_KEYS = 10_000
KEPT_S = 3600.0
MAX_KEY_CHARS = 255

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ConditionalRoute(APIRoute):
    """A route that answers `If-None-Match` and `Idempotency-Key`."""

    def get_route_handler(self) -> Handler:
        """Called once by FastAPI."""
        handle = super().get_route_handler()

        async def conditional(request: Request) -> Response:
            if request.method == "GET":
                return _unless_known(request, await handle(request))
            if key := request.headers.get("idempotency-key"):
                return await _once(request, key, handle)
            return await handle(request)

        return conditional


def _unless_known(request: Request, answer: Response) -> Response:
    if answer.status_code != 200 or isinstance(answer, StreamingResponse):
        return answer
    tag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    answer.headers["etag"] = tag
    answer.headers["cache-control"] = "private, no-cache"
    asked = request.headers.get("if-none-match", "")
    if tag in {each.strip().removeprefix("W/") for each in asked.split(",")} or asked == "*":
        return Response(status_code=304, headers={"etag": tag})
    return answer


@dataclass(slots=True)
class _Write:
    fingerprint: bytes
    began_s: float
    answer: Response | None = None


class IdempotencyKeys:
    """Answers by caller and key; event loop only."""

    def __init__(
        self, *, monotonic_s: Callable[[], float] = time.monotonic, max_keys: int = MAX_KEYS
    ) -> None:
        self._monotonic_s = monotonic_s
        self._max_keys = max_keys
        self._writes: OrderedDict[tuple[str, str, str], _Write] = OrderedDict()

    def begin(self, name: tuple[str, str, str], fingerprint: bytes) -> Response | None:
        """The answer that was given before; None where the caller should go on.

        Raises:
            ConflictError: the same request is still under way.
            InvalidParameterError: the key was used for another request.
        """
        now_s = self._monotonic_s()
        while self._writes and now_s - next(iter(self._writes.values())).began_s > KEPT_S:
            self._writes.popitem(last=False)
        known = self._writes.get(name)
        if known is None:
            self._writes[name] = _Write(fingerprint, now_s)
            if len(self._writes) > self._max_keys:
                self._writes.popitem(last=False)
            return None
        if known.fingerprint != fingerprint:
            raise InvalidParameterError(
                "idempotency-key", name[-1], "another key for another request"
            )
        if known.answer is None:
            raise ConflictError("idempotency-key", "the request with this key is still under way")
        return known.answer

    def end(self, name: tuple[str, str, str], answer: Response | None) -> None:
        """Keep an answer; None where the request came to nothing and may be made again."""
        write = self._writes.get(name)
        if answer is None or write is None:
            self._writes.pop(name, None)
        else:
            write.answer = answer


async def _once(request: Request, key: str, handle: Handler) -> Response:
    if len(key) > MAX_KEY_CHARS:
        raise InvalidParameterError("idempotency-key", key, f"at most {MAX_KEY_CHARS} characters")
    keys: IdempotencyKeys = request.app.state.idempotency_keys
    who = gate_of(request).identify(request)
    name = (who.subject, request.headers.get("x-shepherd-tenant", ""), key)
    digest = hashlib.sha256(f"{request.method} {request.url}\n".encode())
    digest.update(await request.body())
    if (known := keys.begin(name, digest.digest())) is not None:
        return Response(
            known.body, known.status_code, known.headers | {"idempotent-replay": "true"}
        )
    answer: Response | None = None
    try:
        answer = await handle(request)
        return answer
    finally:
        keys.end(name, answer if answer is not None and answer.status_code < 500 else None)
