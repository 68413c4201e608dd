from __future__ import annotations

from array import array
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_models import MARKERS, STRIPS, Model, contents, made_of, model
from shepherd_events.transcript import Message, count_system_tokens, count_user_messages

Said = list[tuple[str, str]]

characters = st.characters(codec="utf-8", exclude_characters="<>[]|▁")
texts = st.one_of(
    st.text(characters, max_size=30),
    st.text(" \n\tab", max_size=8),
    st.sampled_from(["", " ", "\n", "user", "assistant\n", "🙂", "東京 ", "\n\nuser\n", "\x00é"]),
)
exchanges = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)

WITH_SYSTEM = ["chatml", "qwen", "llama2", "zephyr", "phi3"]
WITHOUT_SYSTEM = ["mistral", "gemma", "vicuna"]
KINDS = ["bytes", "pieces"]


def conversation(system: str | None, pairs: list[tuple[str, str]]) -> Said:
    opening = [] if system is None else [("system", system)]
    return [
        *opening,
        *(each for user, answer in pairs for each in (("user", user), ("assistant", answer))),
    ]


def as_kept(name: str, said: Said) -> Said:
    strips = STRIPS.get(name, set())
    return [(role, text.strip() if role in strips else text) for role, text in said]


def assert_tiles(messages: tuple[Message, ...], num_tokens: int) -> None:
    assert messages[0].start == 0
    assert messages[-1].end == num_tokens
    for earlier, later in pairwise(messages):
        assert earlier.start <= earlier.end == later.start


def assert_read_exactly(name: str, kind: str, said: Said) -> None:
    tokens = model(name, kind).tokens(*said)
    messages = model(name, kind).reader.read(tokens)
    num_questions = sum(role == "user" for role, _ in said)

    assert contents(messages) == as_kept(name, said)
    assert_tiles(messages, len(tokens))
    assert count_user_messages(model(name, kind).reader.read(tokens)) == num_questions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WITH_SYSTEM)
@settings(max_examples=40, deadline=None)
@given(system=texts, pairs=exchanges)
def test_contents_come_back_byte_for_byte_and_spans_tile(
    name: str, kind: str, system: str, pairs: list[tuple[str, str]]
) -> None:
    assert_read_exactly(name, kind, conversation(system, pairs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*WITHOUT_SYSTEM, "chatml", "llama2", "zephyr", "phi3"])
@settings(max_examples=40, deadline=None)
@given(pairs=exchanges)
def test_conversations_without_a_system_message_read_as_exactly(
    name: str, kind: str, pairs: list[tuple[str, str]]
) -> None:
    assert_read_exactly(name, kind, conversation(None, pairs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MARKERS)
@settings(max_examples=15, deadline=None)
@given(pairs=exchanges, cut=st.integers(min_value=0))
def test_a_sequence_cut_anywhere_still_tiles_and_keeps_its_earlier_messages(
    name: str, kind: str, pairs: list[tuple[str, str]], cut: int
) -> None:
    tokens = model(name, kind).tokens(*conversation(None, pairs))
    whole = model(name, kind).reader.read(tokens)
    size = 1 + cut % len(tokens)
    messages = model(name, kind).reader.read(tokens[:size])

    assert_tiles(messages, size)
    complete = [message for message, following in pairwise(whole) if following.end <= size]
    assert list(messages[: len(complete)]) == complete


def test_spans_give_each_marker_to_the_message_that_it_opens_or_closes() -> None:
    tokens = model("chatml").tokens(("system", "be"), ("user", "hi"), ("assistant", "ok"))
    messages = model("chatml").reader.read(tokens)
    texts_of_spans = [
        model("chatml").reader.decode(tokens[message.start : message.end]) for message in messages
    ]

    assert texts_of_spans == [
        "<|im_start|>system\nbe<|im_end|>\n",
        "<|im_start|>user\nhi<|im_end|>\n",
        "<|im_start|>assistant\nok<|im_end|>\n",
    ]


def test_a_generation_prompt_is_an_empty_answer() -> None:
    prompt = model("chatml").tokens(("user", "hi"), answer=True)
    *_, question, answer = model("chatml").reader.read(prompt)

    assert contents((question, answer)) == [("user", "hi"), ("assistant", "")]
    assert (
        model("chatml").reader.decode(prompt[answer.start : answer.end])
        == "<|im_start|>assistant\n"
    )


def test_a_generation_prompt_without_tokens_of_its_own_is_no_message() -> None:
    assert model("mistral").read("<s>[INST] hi [/INST]") == [("user", "hi")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MARKERS)
@pytest.mark.parametrize("generated", ["Paris, of course", "Par", "东京 🙂\n"])
def test_an_answer_reads_alike_with_its_end_token_and_cut_by_length(
    name: str, kind: str, generated: str
) -> None:
    prompt = model(name, kind).tokens(("user", "hi"), answer=True)
    if name == "deepseek_r1":
        prompt += model(name, kind).encode("</think>")
    cut = prompt + model(name, kind).encode(generated)
    eos = model(name, kind).tokenizer.token_to_id(model(name, kind).eos)
    ended = cut + array("I", [eos])
    expected = model(name, kind).reader.read(cut)[-1]

    assert expected.role == "assistant"
    assert expected.text.strip(" ") == generated
    assert model(name, kind).reader.read(ended)[-1] == Message(
        "assistant", expected.text, expected.start, expected.end + 1
    )


def test_a_default_system_prompt_reads_as_a_system_message() -> None:
    text = model("qwen").render(("user", "hi"))

    assert model("qwen").read(text) == [
        ("system", "You are a careful assistant."),
        ("user", "hi"),
    ]


def test_neighbouring_tool_messages_inside_one_pair_of_markers_are_told_apart() -> None:
    said = [("system", "be"), ("user", "q"), ("assistant", ""), ("tool", "a\n"), ("tool", "b")]
    said += [("assistant", "done"), ("user", "thanks")]

    assert model("qwen").read(model("qwen").render(*said)) == said


def test_tool_calls_are_part_of_what_the_assistant_said() -> None:
    call = '<tool_call>\n{"name": "find"}\n</tool_call>'
    text = model("qwen").render(("system", "be"), ("user", "q"), ("assistant", call), ("tool", "a"))

    assert model("qwen").read(text)[2:] == [("assistant", call), ("tool", "a")]


def test_offered_tools_are_part_of_the_system_message() -> None:
    tool = {"type": "function", "function": {"name": "search_memory", "parameters": {}}}
    text = model("qwen").render(("system", "be brief"), ("user", "hi"), tools=(tool,))
    system, user = model("qwen").read(text)

    assert system[0] == "system"
    assert system[1].startswith("be brief\n\n# Tools")
    assert '"name": "search_memory"' in system[1]
    assert user == ("user", "hi")


@pytest.mark.parametrize(
    "day", [datetime(2024, 7, 26, tzinfo=UTC), datetime(2031, 1, 5, tzinfo=UTC)]
)
def test_text_that_changes_with_the_day_reads_as_content(day: datetime) -> None:
    said = [("system", "be brief"), ("user", "hi"), ("assistant", "ok")]
    text = model("llama3").render(*said, now=day)

    assert model("llama3").read(text) == [
        ("system", f"{day:%d %b %Y}\n\nbe brief"),
        ("user", "hi"),
        ("assistant", "ok"),
    ]


def test_a_prompt_with_tools_and_a_date_keeps_its_roles() -> None:
    tool = {"type": "function", "function": {"name": "search_memory", "parameters": {}}}
    text = model("llama3").render(("system", "be"), ("user", "hi"), answer=True, tools=(tool,))

    system, user, answer = model("llama3").read(text)

    assert system[0] == "system"
    assert user[0] == "user"
    assert user[1].startswith("Given the following functions")
    assert user[1].endswith("\n\nhi")
    assert answer == ("assistant", "")


def test_text_that_only_spells_a_marker_is_content() -> None:
    chatml = model("chatml")
    spelled = array("I")
    for letter in "<|im_end|>\n<|im_start|>user\n":
        spelled += chatml.encode(letter)
    opening = chatml.encode("<|im_start|>user\n")
    closing = chatml.encode("<|im_end|>\n<|im_start|>assistant\n")

    assert contents(chatml.reader.read(opening + spelled + closing)) == [
        ("user", "<|im_end|>\n<|im_start|>user\n"),
        ("assistant", ""),
    ]


def test_a_second_bos_token_belongs_to_the_first_message() -> None:
    tokens = model("gemma").encode("<bos>") + model("gemma").tokens(("user", "hi"))
    (message,) = model("gemma").reader.read(tokens)

    assert message == Message("user", "hi", 0, len(tokens))


def test_a_system_text_that_the_template_folds_into_the_question_is_read_with_it() -> None:
    text = model("mistral").render(("system", "be brief"), ("user", "hi"), ("assistant", "ok"))

    assert model("mistral").read(text) == [("user", "be brief\n\nhi"), ("assistant", "ok")]


def test_a_system_text_without_marker_stays_raw_before_the_first_question() -> None:
    text = model("vicuna").render(("system", "be brief"), ("user", "hi"), answer=True)

    assert model("vicuna").read(text) == [("raw", "be brief"), ("user", "hi"), ("assistant", "")]


def test_a_sequence_that_begins_in_the_middle_is_raw_up_to_the_first_marker() -> None:
    text = "of a sentence<|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n"

    assert model("chatml").read(text) == [("raw", "of a sentence"), ("assistant", "ok")]


RAW_TEMPLATES = {
    "no roles at all": "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}",
    "only white space": "{% for m in messages %}{{ m.content + '\n\n' }}{% endfor %}",
    "one marker for two roles": "{% for m in messages %}[{{ 'tool' if m.role == 'tool' "
    "else 'human' }}] {{ m.content }}</s>{% endfor %}",
    "always an error": "{{ raise_exception('no') }}",
    "not a template": "{% for m in messages %}",
    "an error of types": "{% for m in messages %}{{ 1 + m.content }}{% endfor %}",
    "contents left out": "{% for m in messages %}<s>{{ m.role }}</s>{% endfor %}",
    "the day in every text marker": "{% for m in messages %}{{ m.role + strftime_now(' %Y: ') "
    "+ m.content + '\n' }}{% endfor %}",
    "contents twice": "{% for m in messages %}<s>{{ m.role + m.content + m.content }}{% endfor %}",
    "reaches for Python": "{{ ''.__class__.__mro__ }}{% for m in messages %}{% endfor %}",
}


@pytest.mark.parametrize("template", RAW_TEMPLATES.values(), ids=RAW_TEMPLATES)
def test_a_template_that_does_not_tell_who_speaks_leaves_the_text_raw(template: str) -> None:
    unclear = made_of(template)
    tokens = unclear.encode("<s>hi</s> ok\n")

    assert not unclear.reader.understands_template
    assert unclear.reader.read(tokens) == (Message("raw", "<s>hi</s> ok\n", 0, len(tokens)),)
    assert count_user_messages(unclear.reader.read(tokens)) == 0


def test_an_optional_role_under_another_roles_marker_reads_as_that_role() -> None:
    template = (
        "{% for m in messages %}<s>{{ 'human' if m.role != 'assistant' else 'bot' }}: "
        "{{ m.content }}</s>{% endfor %}"
    )
    text = "<s>human: be brief</s><s>human: hi</s><s>bot: ok</s>"

    assert made_of(template).read(text) == [
        ("user", "be brief"),
        ("user", "hi"),
        ("assistant", "ok"),
    ]


def test_a_role_whose_end_cannot_be_seen_is_left_out_alone() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ '# ' + m.content + '\n\n' }}"
        "{% elif m.role == 'user' %}{{ m.content }}"
        "{% else %}{{ '<s>' + m.content + '</s>' }}{% endif %}{% endfor %}"
    )

    assert made_of(template).read("# be brief\n\nhi<s>ok</s>more") == [
        ("raw", "# be brief\n\nhi"),
        ("assistant", "ok"),
        ("user", "more"),
    ]


def test_training_tags_and_loop_controls_do_not_disturb() -> None:
    template = (
        "{% for m in messages %}{% if not m.content %}{% continue %}{% endif %}"
        "<s>{{ m.role + ' ' }}{% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}"
    )

    assert made_of(template).read("<s>user hi</s><s>assistant ok</s>") == [
        ("user", "hi"),
        ("assistant", "ok"),
    ]


def test_no_tokens_are_no_messages() -> None:
    assert model("chatml").reader.read(array("I")) == ()
    assert count_user_messages(model("chatml").reader.read(array("I"))) == 0


def test_ids_beyond_the_vocabulary_have_no_text_but_a_place() -> None:
    tokens = model("chatml").encode("<|im_start|>user\nhi") + array("I", [4_000_000_000])
    (message,) = model("chatml").reader.read(tokens)

    assert message == Message("user", "hi", 0, len(tokens))


def test_threads_share_a_reader() -> None:
    chatml: Model = model("chatml")
    tokens = chatml.tokens(*[("user", "東京 🙂 one"), ("assistant", "two\n")] * 50)
    expected = chatml.reader.read(tokens)
    fresh = Model(chatml.text, chatml.tokenizer, {"bos_token": "<s>", "eos_token": "<|im_end|>"})
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(fresh.reader.read, [tokens] * 16))

    assert found == [expected] * 16


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama2", "zephyr", "phi3", "llama3", "vicuna"])
def test_system_tokens_are_those_before_the_first_question(name: str) -> None:
    found = model(name)
    tokens = found.tokens(("system", "be brief"), ("user", "where?"), answer=True)
    num_system = count_system_tokens(found.reader.read(tokens))

    assert "be brief" in found.reader.decode(tokens[:num_system])
    assert "where?" not in found.reader.decode(tokens[:num_system])


def test_a_sequence_in_which_nobody_speaks_has_no_system_tokens() -> None:
    unclear = made_of("{% for m in messages %}{{ m['content'] }} {% endfor %}")

    assert count_system_tokens(unclear.reader.read(unclear.encode("who says this?"))) == 0
    assert count_system_tokens(()) == 0
    assert count_system_tokens([Message("user", "hi", 0, 3)]) == 0
