"""Rounds of tools in the middle of a conversation, as templates of several families write them."""

from __future__ import annotations

from typing import Any

import pytest

from chat_models import Model, contents, made_of
from shepherd_events.chat_template import Conversation

THINKS_AFTER_THE_LAST_QUESTION = """
{%- set ns = namespace(last=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.role == 'assistant' and loop.index0 > ns.last -%}
{{- '<think>\n' + (message.reasoning_content or '') + '\n</think>\n\n' -}}
{%- endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}
"""
"""As Qwen 3.5 does: an answer after a tool looks otherwise once the next question is there."""

NAMES_THE_CALL_BEFORE_THE_RESULT = """
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{- ' [INST] ' + message.content + ' [/INST]' -}}
{%- elif message.role == 'tool' -%}
{{- ' [TOOL_RESULTS] {"call_id": "' + message.tool_call_id + '", "content": ' -}}
{{- message.content + '} [/TOOL_RESULTS] ' -}}
{%- elif message.tool_calls -%}
{{- ' [TOOL_CALLS] [' -}}
{%- for call in message.tool_calls -%}{{- call.function | tojson -}}{%- endfor -%}
{{- '] ' + eos_token -}}
{%- else -%}
{{- ' ' + message.content + ' ' + eos_token -}}
{%- endif -%}
{%- endfor -%}
"""
"""As Mistral 7B v0.3 does: between marker and result stands an id, and no added token behind it."""

MARKERS = {
    THINKS_AFTER_THE_LAST_QUESTION: ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    NAMES_THE_CALL_BEFORE_THE_RESULT: (
        *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
}


def conversation(*more: dict[str, Any]) -> Conversation:
    function = {"name": "find", "arguments": {"q": "cats"}}
    called = [{"id": "aB3dE5fG7", "type": "function", "function": function}]
    return Conversation(
        (
            {"role": "user", "content": "Where do cats sleep?"},
            {"role": "assistant", "content": "", "tool_calls": called},
            {"role": "tool", "content": 'Under "it".', "tool_call_id": "aB3dE5fG7"},
            {"role": "assistant", "content": "Under the stove."},
            *more,
        )
    )


def read(spelled: Model, asked: Conversation) -> list[tuple[str, str]]:
    messages = contents(spelled.reader.read(spelled.encode(spelled.template.render(asked))))
    return [(role, text.strip()) for role, text in messages if text.strip()]


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(THINKS_AFTER_THE_LAST_QUESTION, id="thinks after the last question"),
        pytest.param(NAMES_THE_CALL_BEFORE_THE_RESULT, id="names the call before the result"),
    ],
)
def test_what_follows_a_tool_is_told_from_its_result_before_and_after_the_next_question(
    template: str,
) -> None:
    spelled = made_of(template, MARKERS[template])

    latest = read(spelled, conversation())
    earlier = read(spelled, conversation({"role": "user", "content": "Thanks!"}))

    assert latest[0] == earlier[0] == ("user", "Where do cats sleep?")
    assert latest[1][0] == earlier[1][0] == "assistant"
    assert "cats" in latest[1][1]
    assert latest[2:] == [("tool", 'Under "it".'), ("assistant", "Under the stove.")]
    assert earlier[2:] == [*latest[2:], ("user", "Thanks!")]
