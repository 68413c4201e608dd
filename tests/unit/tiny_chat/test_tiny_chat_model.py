"""The tiny chat model that ships: what it is, that it is the one of the log, what it can do."""

from __future__ import annotations

import hashlib
import json
from array import array
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from scripts.train_tiny_chat import search_exchanges
from shepherd_events.chat_template import ChatTemplate, Conversation
from shepherd_events.transcript import TokenizerAssets, TranscriptReader
from shepherd_tiny_chat import MODEL_DIR, SEARCH_MEMORY, search_query
from shepherd_tiny_chat.evaluation.scores import BARS, evaluate
from shepherd_tiny_chat.training.batches import ShardMaker
from shepherd_tiny_chat.training.tokenizer import thinned

FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_log.json",
}
MAX_BYTES = 12_600_000
CALL = '<tool_call>\n{"name": "search_memory", "arguments": {"query": "name of cat"}}\n</tool_call>'


@cache
def log() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MODEL_DIR / "training_log.json").read_text())
    return loaded


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


@cache
def template() -> ChatTemplate:
    return ChatTemplate((MODEL_DIR / "chat_template.jinja").read_text(), {})


def test_the_directory_holds_all_that_an_engine_and_a_frontend_read() -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text())
    tokenizer_config = json.loads((MODEL_DIR / "tokenizer_config.json").read_text())

    assert {file.name for file in MODEL_DIR.iterdir()} == FILES
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) < MAX_BYTES
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 4096
    assert config["vocab_size"] == tokenizer().get_vocab_size()
    assert config["eos_token_id"] == tokenizer().token_to_id(tokenizer_config["eos_token"])
    assert config["pad_token_id"] == tokenizer().token_to_id(tokenizer_config["pad_token"])


def test_the_weights_are_those_that_the_log_tells_of() -> None:
    weights = hashlib.sha256((MODEL_DIR / "model.safetensors").read_bytes()).hexdigest()

    assert weights == log()["weights_sha256"]


def test_the_log_says_that_every_bar_was_reached() -> None:
    missed = {skill for skill, bar in BARS.items() if log()["held_out"][skill]["share"] < bar}

    assert log()["held_out"]["bars"] == BARS
    assert missed == set()


def test_its_card_says_license_and_scores() -> None:
    card = (MODEL_DIR.parent / "README.md").read_text()

    assert "Apache-2.0" in card
    for skill in BARS:
        share = log()["held_out"][skill]["share"]
        assert f"{100 * share:.1f} %" in card, skill


@settings(deadline=None)
@given(st.text())
def test_no_text_is_unknown_to_its_tokenizer(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text


def test_a_thinned_tokenizer_cuts_the_same_text_into_more_pieces() -> None:
    text = "the colour of my garden shed"
    thin = thinned(tokenizer(), Random(0), 0.25)

    assert len(thin.encode(text).ids) > len(tokenizer().encode(text).ids)
    assert thin.decode(thin.encode(text).ids) == text
    assert thin.token_to_id("<|im_end|>") == tokenizer().token_to_id("<|im_end|>")
    assert thinned(tokenizer(), Random(0), 0).encode(text).ids == tokenizer().encode(text).ids


def test_the_data_is_that_of_the_log() -> None:
    recipe = log()["recipe"]
    maker = ShardMaker(
        MODEL_DIR / "tokenizer.json",
        MODEL_DIR / "chat_template.jinja",
        recipe["seed"],
        recipe["tokens_per_batch"],
    )

    assert maker(0).digest.hex() == log()["first_shard_sha256"]


def test_its_conversations_can_be_read_back_message_by_message() -> None:
    reader = TranscriptReader(TokenizerAssets.from_directory(MODEL_DIR))
    notice = {"role": "tool", "name": "context_eviction", "content": "NOTICE: Conversation"}
    call = {"function": {"name": "search_memory", "arguments": '{"query": "name of cat"}'}}
    asked: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages: tuple[dict[str, Any], ...] = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        notice,
        {"role": "user", "content": "What is my cat called?"},
        asked,
        {"role": "tool", "content": "東京"},
        {"role": "assistant", "content": "Your cat is called 東京."},
        {"role": "user", "content": "Thanks!"},
    )
    text = template().render(Conversation(messages, True, (SEARCH_MEMORY,)))
    read = reader.read(array("I", tokenizer().encode(text).ids))

    assert read[0].text.startswith("Be brief.")
    assert [(each.role, each.text) for each in read[1:]] == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("tool", "NOTICE: Conversation"),
        ("user", "What is my cat called?"),
        ("assistant", CALL),
        ("tool", "東京"),
        ("assistant", "Your cat is called 東京."),
        ("user", "Thanks!"),
        ("assistant", ""),
    ]


@pytest.mark.parametrize("arguments", ['{"query": "name of cat"}', {"query": "name of cat"}])
def test_a_call_reads_the_same_whether_a_client_sends_it_in_pieces_or_as_text(
    arguments: object,
) -> None:
    call = {"function": {"name": "search_memory", "arguments": arguments}}
    in_pieces: Any = {"role": "assistant", "content": "", "tool_calls": [call]}
    rendered = [
        template().render(Conversation(({"role": "user", "content": "hi"}, answer)))
        for answer in (in_pieces, {"role": "assistant", "content": CALL})
    ]

    assert rendered[0] == rendered[1]
    assert search_query(rendered[0]) == "name of cat"


def test_a_sample_of_the_held_out_questions_is_answered() -> None:
    import torch

    from shepherd_tiny_chat.evaluation.answers import Answerer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scores = evaluate(Answerer(MODEL_DIR, batch_size=16), search_exchanges, cases=4, seed=1)
    finally:
        torch.set_num_threads(threads)

    for skill in BARS:
        assert scores[skill].share >= 0.5, scores[skill].wrong


def test_the_model_directory_is_part_of_the_package() -> None:
    assert Path(__file__).parents[3] / "components/shepherd_tiny_chat/model" == MODEL_DIR
