"""A tool message before anybody has spoken: what a NOTICE is once the turns before it are gone."""

from __future__ import annotations

import pytest

from chat_models import MARKERS, model
from shepherd_events.transcript import count_user_messages

SYSTEM = ("system", "Be brief.")
NOTICE = ("tool", "NOTICE: Conversation regarding cats has been moved.")
SECOND = ("tool", "NOTICE: Conversation regarding dogs has been moved.")
ASKED = ("user", "What now?")
ANSWERED = ("assistant", "Well.")

REFUSE = {"gemma", "harmony", "llama2", "mistral"}
"""Templates that render no tool message without a call before it."""
DROP = {"phi3", "phi4", "vicuna", "zephyr"}
"""Templates that leave tool messages out."""
FOLD = {"mistral_v3"}
"""Templates that write the system prompt into the last question."""
READ = sorted(set(MARKERS) - REFUSE - DROP)


@pytest.mark.parametrize("name", READ)
def test_a_notice_directly_after_the_system_prompt_is_a_tool_message(name: str) -> None:
    read = model(name).read(model(name).render(SYSTEM, NOTICE, ASKED))

    assert read[-2:-1] == [NOTICE]
    assert read[-1][0] == "user"
    assert read[-1][1].endswith(ASKED[1])
    if name not in FOLD:
        assert read[0][0] == "system"
        assert read[0][1].endswith(SYSTEM[1])
        assert len(read) == 3


@pytest.mark.parametrize("name", READ)
def test_a_notice_before_all_else_is_a_tool_message(name: str) -> None:
    read = model(name).read(model(name).render(NOTICE, ASKED, ANSWERED, ASKED))

    assert read[-4:] == [NOTICE, ASKED, ANSWERED, ASKED]


@pytest.mark.parametrize("name", READ)
def test_two_notices_are_two_tool_messages(name: str) -> None:
    read = model(name).read(model(name).render(SYSTEM, NOTICE, SECOND, ASKED, ANSWERED))

    assert [each for each in read if each[0] == "tool"] == [NOTICE, SECOND]
    assert read[-1] == ANSWERED


@pytest.mark.parametrize("name", READ)
def test_a_notice_is_no_turn_of_the_user(name: str) -> None:
    tokens = model(name).tokens(SYSTEM, NOTICE, ASKED, ANSWERED)

    assert count_user_messages(model(name).reader.read(tokens)) == 1


@pytest.mark.parametrize("name", sorted(DROP))
def test_a_template_that_leaves_tools_out_reads_as_without_them(name: str) -> None:
    with_notice, without = (
        model(name).tokens(SYSTEM, *notices, ASKED) for notices in ((NOTICE,), ())
    )

    assert with_notice == without
