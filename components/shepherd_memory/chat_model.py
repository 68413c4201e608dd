"""A chat model that reads archived turns for us, behind any OpenAI-compatible interface.

What it is given is quoted as a record, what it answers is data: one JSON object
of a form that is checked, bounded in number and size, and nothing else.  An
endpoint that is down is asked again, later and later, without end.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.recalled import quoted

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 300.0
TIMEOUT_S = 120.0
MAX_PROMPT_CHARS = 24_000

Form = TypeVar("Form", bound=BaseModel)


class EndpointUnavailableError(Exception):
    """No answer now; asking again may help."""


class UnreadableAnswerError(Exception):
    """An answer that says nothing we understand."""


class ChatModel(Protocol):
    """Something that answers a prompt."""

    async def complete(self, instructions: str, text: str) -> str:
        """The answer's text.

        Raises:
            EndpointUnavailableError: not now.
            UnreadableAnswerError: never, to this.
        """
        ...


class OpenAiEndpoint:
    """`ChatModel` over any OpenAI-compatible HTTP interface."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, key: str) -> None:
        """`url` ends in `/v1` or what stands for it; the session is the caller's."""
        self._session = session
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def complete(self, instructions: str, text: str) -> str:
        """See `ChatModel.complete`."""
        body = {
            "model": self._model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [
                {"role": "system", "content": instructions},
                {"role": "user", "content": text},
            ],
        }
        try:
            async with self._session.post(
                self._url,
                json=body,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as answer:
                if answer.status in {400, 413, 422}:
                    raise UnreadableAnswerError(f"status {answer.status}")
                if answer.status != 200:
                    raise EndpointUnavailableError(f"status {answer.status}")
                document = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EndpointUnavailableError(type(error).__name__) from error
        try:
            return str(document["choices"][0]["message"]["content"])
        except (LookupError, TypeError) as error:
            raise UnreadableAnswerError("no choices[0].message.content") from error


@dataclass(frozen=True, slots=True)
class PatientModel:
    """Asks a model until it answers; event loop only."""

    model: ChatModel
    on_retry: Callable[[], None]
    """Called whenever it does not answer."""
    first_pause_s: float = FIRST_PAUSE_S

    async def asked(self, instructions: str, turns: Iterable[StoredTurn], form: type[Form]) -> Form:
        """What the model says of turns.

        Raises:
            UnreadableAnswerError: nothing of that form.
        """
        said = "\n".join(f"{each.role}: {each.text}" for turn in turns for each in turn.messages)
        text, pause_s = quoted(said[:MAX_PROMPT_CHARS]), self.first_pause_s
        while True:
            try:
                answer = await self.model.complete(instructions, text)
            except EndpointUnavailableError as error:
                self.on_retry()
                log.warning("the model that reads turns does not answer: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            else:
                return parsed(answer, form)


def parsed(answer: str, form: type[Form]) -> Form:
    """The first JSON object of an answer, whatever stands around it.

    Raises:
        UnreadableAnswerError: there is none, or it is not of the form that was asked for.
    """
    begin, end = answer.find("{"), answer.rfind("}")
    try:
        return form.model_validate(json.loads(answer[begin : end + 1]))
    except (ValueError, ValidationError) as error:
        raise UnreadableAnswerError("not the JSON object that was asked for") from error
