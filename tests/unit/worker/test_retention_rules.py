"""What a conversation's KV is worth: the system prompt first, a session that is over last."""

from __future__ import annotations

from array import array

import pytest

from chat_models import model
from shepherd_worker.attribution import Attributor
from shepherd_worker.request import Retention, RetentionRange
from shepherd_worker.wire import parse_request

CHAT = model("chatml")
PROMPT = CHAT.tokens(("system", "be brief"), ("user", "where?"), ("assistant", "here"))
SYSTEM = CHAT.reader.read(PROMPT)[0].end
PINNED = RetentionRange(start=0, stop=SYSTEM, priority=100, duration_s=60.0)


async def retention(token_ids: array[int], **more: object) -> Retention | None:
    attributor = Attributor(CHAT.reader, system_duration_s=60.0)
    wire = parse_request({"token_ids": token_ids.tolist(), **more})
    return (await attributor.attribute(wire, token_ids, "r")).retention


@pytest.mark.parametrize("context", [None, {"session_id": "s"}])
async def test_the_system_prompt_is_pinned_whoever_asks(context: object) -> None:
    assert await retention(PROMPT, agent_context=context) == Retention(ranges=(PINNED,))


async def test_a_session_that_is_over_keeps_its_system_prompt_only() -> None:
    final = {"session_id": "s", "session_final": True}

    assert await retention(PROMPT, agent_context=final) == Retention(
        ranges=(PINNED, RetentionRange(start=SYSTEM, stop=None, priority=0)), decode_priority=0
    )


async def test_a_prompt_without_a_system_message_is_worth_the_default() -> None:
    assert await retention(CHAT.tokens(("user", "where?"))) is None
    assert await retention(array("I", [1, 2, 3])) is None
