# ruff: noqa: RUF001 - DeepSeek writes its markers with full-width bars
"""Reasoning, tool calls, their results and images, as each family of models spells them."""

from __future__ import annotations

import json
from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from chat_models import MARKERS, Model, contents, model
from shepherd_events.chat_template import Conversation
from shepherd_events.transcript import Message

FAMILIES = {
    "qwen3": "text",
    "deepseek_r1": "text",
    "deepseek_v3": "text",
    "mistral_v3": "mapping",
    "mistral_tekken": "text",
    "phi4_tools": "mapping",
    "harmony": "mapping",
}
"""How each template wants the arguments of a call."""

ESCAPES = {"phi4_tools", "harmony"}
"""Templates that write a tool's result as JSON."""

MARKED_BY_TEXT = {"mistral", "llama2", "vicuna"}
"""Templates without added tokens between user and assistant: what spells a marker is one."""

words = st.text(
    st.characters(codec="utf-8", exclude_characters='<>[]|▁｜"\\\x7f', min_codepoint=32)
)
texts = st.one_of(words, st.sampled_from(["", " ", "🙂 東京", "user", "to=functions.x"]))


def call_of(name: str, query: str, call_id: str) -> dict[str, Any]:
    arguments: Any = {"query": query}
    if FAMILIES[name] == "text":
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": "search_memory", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def rounds(name: str, exchange: tuple[str, str, str, str], call_id: str) -> list[dict[str, Any]]:
    question, query, result, answer = exchange
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call_of(name, query, call_id)]},
        {"role": "tool", "content": result, "tool_call_id": call_id, "name": "search_memory"},
        {"role": "assistant", "content": answer},
    ]


def assert_tiles(messages: tuple[Message, ...], num_tokens: int) -> None:
    assert (messages[0].start, messages[-1].end) == (0, num_tokens)
    for earlier, later in pairwise(messages):
        assert earlier.start <= earlier.end == later.start


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(
    exchanges=st.lists(st.tuples(texts, words, texts, texts), min_size=1, max_size=3),
    call_id=st.text("abcXYZ019", min_size=9, max_size=9),
)
def test_tool_calls_and_their_results_come_back_for_any_ids_and_words(
    name: str, exchanges: list[tuple[str, str, str, str]], call_id: str
) -> None:
    said = [each for exchange in exchanges for each in rounds(name, exchange, call_id)]
    text = model(name).template.render(Conversation(tuple(said)))
    tokens = model(name).encode(text)
    messages = model(name).reader.read(tokens)

    assert_tiles(messages, len(tokens))
    spoken = [each for each in contents(messages) if each[0] not in {"system", "reasoning"}]
    assert [role for role, _ in spoken] == ["user", "assistant", "tool", "assistant"] * len(
        exchanges
    )
    for place, (question, query, result, answer) in enumerate(exchanges):
        found = [text for _, text in spoken[4 * place : 4 * place + 4]]
        assert found[0] == question
        assert "search_memory" in found[1]
        assert query in found[1]
        assert found[2] == (
            json.dumps(result, ensure_ascii=False)[1:-1] if name in ESCAPES else result
        )
        assert found[3].removeprefix(" ") == answer.removeprefix(" ")


@pytest.mark.parametrize("name", ["qwen3", "harmony"])
@settings(max_examples=25, deadline=None)
@given(question=texts, thought=texts.filter(str.strip), answer=texts)
def test_reasoning_stands_apart_from_the_answer(
    name: str, question: str, thought: str, answer: str
) -> None:
    thinking = {"reasoning_content": thought, "thinking": thought}
    said = (
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer} | thinking,
    )
    tokens = model(name).encode(model(name).template.render(Conversation(said)))
    messages = model(name).reader.read(tokens)

    assert_tiles(messages, len(tokens))
    assert contents(messages)[-3:] == [
        ("user", question),
        ("reasoning", thought),
        ("assistant", answer),
    ]


HARMONY_ANSWER = (
    "<|channel|>analysis<|message|>hm?<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
)
GENERATED = {
    "qwen3": ("<think>\nhm?\n</think>\n\nYes.<|im_end|>", {}),
    "deepseek_r1": ("hm?\n</think>\n\nYes.<｜end▁of▁sentence｜>", {}),
    "deepseek_v3": ("hm?</think>Yes.<｜end▁of▁sentence｜>", {"thinking": True}),
    "harmony": (
        HARMONY_ANSWER,
        {},
    ),
}
"""What models write behind the generation prompt."""


@pytest.mark.parametrize("name", GENERATED)
def test_what_a_model_thinks_aloud_is_told_from_what_it_says(name: str) -> None:
    generated, options = GENERATED[name]
    prompt = model(name).tokens(("user", "Sure?"), answer=True, options=options)
    tokens = prompt + model(name).encode(generated)
    messages = model(name).reader.read(tokens)

    assert_tiles(messages, len(tokens))
    assert contents(messages)[-3:] == [
        ("user", "Sure?"),
        ("reasoning", "hm?"),
        ("assistant", "Yes."),
    ]


@pytest.mark.parametrize("name", GENERATED)
def test_reasoning_that_was_cut_is_reasoning_without_an_answer(name: str) -> None:
    generated, options = GENERATED[name]
    prompt = model(name).tokens(("user", "Sure?"), answer=True, options=options)
    cut = prompt + model(name).encode(generated.partition("?")[0])

    assert contents(model(name).reader.read(cut))[-1] == ("reasoning", "hm")


def test_a_model_that_is_asked_not_to_think_only_answers() -> None:
    prompt = model("qwen3").tokens(
        ("user", "Sure?"), answer=True, options={"enable_thinking": False}
    )

    assert contents(model("qwen3").reader.read(prompt + model("qwen3").encode("Yes.")))[1:] == [
        ("assistant", "Yes.")
    ]


def test_a_call_that_harmony_writes_after_thinking_is_the_assistants() -> None:
    prompt = model("harmony").tokens(("user", "Rain?"), answer=True)
    call = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{}"
    generated = f"<|channel|>analysis<|message|>look<|end|><|start|>assistant{call}<|call|>"

    read = contents(model("harmony").reader.read(prompt + model("harmony").encode(generated)))
    assert read[-2:] == [("reasoning", "look"), ("assistant", f"{call}<|call|>")]


def tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "d" * 300, "parameters": {}},
    }


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"deepseek_r1", "deepseek_v3"}))
def test_tools_that_are_offered_belong_to_no_speaker(name: str) -> None:
    said = [("system", "be"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    text = model(name).render(*said, tools=(tool("one"), tool("two")))
    spoken = [each for each in model(name).read(text) if each[0] not in {"system", "reasoning"}]

    assert [role for role, _ in spoken] == ["user", "assistant"] * 2
    assert [text.removeprefix("be\n\n") for _, text in spoken] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", MARKERS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_contents_that_spell_the_templates_own_markers_come_back(
    name: str, data: st.DataObject
) -> None:
    marker = st.sampled_from([*MARKERS[name], "\n", "user", "[INST]", "a"])
    spelled = (
        st.lists(marker, min_size=1, max_size=6).map("".join).filter(lambda text: text.strip())
    )
    said = [("user", data.draw(spelled)), ("assistant", data.draw(spelled))]
    chosen: Model = model(name)
    # Who types a marker does not get its token: contents are encoded letter by letter.
    sentinels = ["qqqhxh", "qqqhyh"]
    text = chosen.render(("user", sentinels[0]), ("assistant", sentinels[1]))
    before, _, rest = text.partition(sentinels[0])
    between, _, after = rest.partition(sentinels[1])
    tokens = array("I")
    for literal, (_, content) in zip((before, between), said, strict=True):
        tokens += chosen.encode(literal)
        for letter in content:
            tokens += chosen.encode(letter)
    tokens += chosen.encode(after)

    messages = chosen.reader.read(tokens)
    assert_tiles(messages, len(tokens))
    if name not in MARKED_BY_TEXT:
        spoken = [each for each in contents(messages) if each[0] in {"user", "assistant"}]
        assert [(role, text.strip()) for role, text in spoken] == [
            (role, text.strip()) for role, text in said
        ]


def test_the_placeholders_of_an_image_are_written_once() -> None:
    pad = "<|image_pad|>"
    chatml = model("chatml")
    tokenizer = chatml.tokenizer.from_str(chatml.tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken(pad, special=True)])
    seeing = Model(chatml.text, tokenizer, chatml.special)
    tokens = seeing.tokens(("user", f"look: {pad * 256} and {pad * 2}"), ("assistant", "A cat."))
    question, answer = seeing.reader.read(tokens)

    assert question.text == f"look: {pad} and {pad * 2}"
    assert question.end - question.start > 256
    assert answer.text == "A cat."


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="▁"), min_size=1, max_size=20),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_characters_that_a_block_border_cuts_are_whole_in_the_stream(
    text: str, data: st.DataObject
) -> None:
    for kind, prefix in (("bytes", ""), ("pieces", " ")):
        tokens = model("chatml", kind).encode(text)
        size = data.draw(st.integers(1, 5))
        stream = model("chatml", kind).reader.stream()
        shown = "".join(stream.push(tokens[at : at + size]) for at in range(0, len(tokens), size))

        assert shown + stream.finish() == prefix + text
