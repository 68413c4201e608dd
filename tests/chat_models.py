# ruff: noqa: RUF001 - DeepSeek writes its markers with full-width bars
"""Small models that only tokenize: real chat templates, tokenizers trained on three lines."""

from __future__ import annotations

import json
from array import array
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from shepherd_events.chat_template import ChatTemplate, Conversation
from shepherd_events.transcript import Message, TokenizerAssets, TranscriptReader

TEMPLATES = Path(__file__).parent / "golden" / "chat_templates"
CORPUS = [
    "The quick brown fox asks the user, the assistant and the system about tools.",
    "user\n\nassistant\nsystem\ntool\nmodel\n USER: ASSISTANT: [INST] hello [/INST] you are",
    "wörter straße 東京 привет 🙂",
]
DEEPSEEK = [
    f"<｜{each}｜>"
    for each in (
        "begin▁of▁sentence",
        "end▁of▁sentence",
        "User",
        "Assistant",
        "tool▁calls▁begin",
        "tool▁calls▁end",
        "tool▁call▁begin",
        "tool▁call▁end",
        "tool▁sep",
        "tool▁output▁begin",
        "tool▁output▁end",
    )
] + ["<think>", "</think>"]
MISTRAL = [
    *("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
]
TEKKEN = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[CALL_ID]", "[ARGS]", "[TOOL_CONTENT]"]
PHI_TOOLS = ["<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"]
HARMONY = "start end message channel constrain return call startoftext endoftext"
MARKERS = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "qwen": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "mistral": ["<s>", "</s>"],
    "llama2": ["<s>", "</s>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "zephyr": ["<s>", "</s>"],
    "phi3": ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "vicuna": ["<s>", "</s>"],
    "qwen3": ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"],
    "deepseek_r1": [*DEEPSEEK, "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"],
    "deepseek_v3": DEEPSEEK,
    "mistral_v3": ["<s>", "</s>", *MISTRAL],
    "mistral_tekken": ["<s>", "</s>", *MISTRAL, *TEKKEN],
    "phi4": ["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"],
    "phi4_tools": [
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "<|endoftext|>",
        *PHI_TOOLS,
    ],
    "harmony": [f"<|{each}|>" for each in HARMONY.split()],
}
BOS = {
    "chatml": "",
    "qwen": "",
    "qwen3": "",
    "phi4": "",
    "phi4_tools": "",
    "harmony": "<|startoftext|>",
    "deepseek_r1": "<｜begin▁of▁sentence｜>",
    "deepseek_v3": "<｜begin▁of▁sentence｜>",
    "llama3": "<|begin_of_text|>",
    "gemma": "<bos>",
}
EOS = {
    "chatml": "<|im_end|>",
    "qwen": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<eos>",
    "phi3": "<|endoftext|>",
    "qwen3": "<|im_end|>",
    "phi4": "<|im_end|>",
    "phi4_tools": "<|end|>",
    "harmony": "<|return|>",
    "deepseek_r1": "<｜end▁of▁sentence｜>",
    "deepseek_v3": "<｜end▁of▁sentence｜>",
}
STRIPS = {
    "llama2": {"user", "assistant"},
    "llama3": {"system", "user", "assistant"},
    "gemma": {"user", "assistant"},
}
"""Roles whose contents a template strips."""


def byte_level_tokenizer(markers: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=markers,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentence_piece_tokenizer(markers: list[str]) -> Tokenizer:
    """As Llama 2's: spaces are "▁", one more before each stretch of text, unknown bytes apart."""
    letters = sorted({letter for text in CORPUS for letter in text if letter.isascii()} - {"\n"})
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in markers])
    return tokenizer


class Model:
    """What a model directory holds: tokenizer, template, and the names of its tokens."""

    def __init__(self, template: str, tokenizer: Tokenizer, special: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.text = template
        self.eos = special.get("eos_token", "")
        self.special = special
        config = json.dumps({"chat_template": template, **special})
        self.assets = TokenizerAssets(
            {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": config}
        )
        self.reader = TranscriptReader(self.assets)

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.text, self.special)

    def render(self, *messages: tuple[str, str], answer: bool = False, **more: Any) -> str:
        given = tuple({"role": role, "content": content} for role, content in messages)
        for message in given:
            if message["role"] == "tool":
                message["tool_call_id"] = "call00001"
        return self.template.render(Conversation(given, answer, **more))

    def encode(self, text: str) -> array[int]:
        return array("I", self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokens(self, *messages: tuple[str, str], answer: bool = False, **more: Any) -> array[int]:
        return self.encode(self.render(*messages, answer=answer, **more))

    def read(self, text: str) -> list[tuple[str, str]]:
        return contents(self.reader.read(self.encode(text)))


@cache
def model(name: str, kind: str = "bytes") -> Model:
    make = byte_level_tokenizer if kind == "bytes" else sentence_piece_tokenizer
    special = {"bos_token": BOS.get(name, "<s>"), "eos_token": EOS.get(name, "</s>")}
    return Model((TEMPLATES / f"{name}.jinja").read_text(), make(MARKERS[name]), special)


def made_of(template: str, markers: tuple[str, ...] = ("<s>", "</s>")) -> Model:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Model(template, byte_level_tokenizer(list(markers)), special)


def contents(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]
