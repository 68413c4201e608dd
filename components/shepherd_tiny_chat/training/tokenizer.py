"""The model's own tokenizer: byte-level BPE, so that nothing is unknown, learned from its corpus.

Digits stand alone: a code that was never seen is copied digit by digit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from shepherd_tiny_chat.corpus.conversations import conversation

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKERS = (END_OF_TEXT, IM_START, IM_END)
"""Special tokens; their ids are their places: 0, 1, 2."""
TAGS = ("<tool_call>", "</tool_call>", "<tools>", "</tools>")
"""Tokens of their own that stay in the text: Dynamo's parser looks for them."""
VOCABULARY_SIZE = 2560
MAX_POSITIONS = 4096
_SAMPLE = 6000
"""Conversations that the merges are learned from."""


def train_tokenizer(seed: int) -> Tokenizer:
    """A tokenizer for the corpus; the same seed makes the same one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(TAGS),
        special_tokens=list(MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer


def thinned(tokenizer: Tokenizer, random: Random, share: float) -> Tokenizer:
    """The same tokenizer without a share of its merges: it cuts words into smaller pieces.

    Within one text it cuts a word alike wherever it stands, which BPE-dropout would not.

    Source: after Provilkov et al., "BPE-Dropout", 2020.
    """
    written = json.loads(tokenizer.to_str())
    written["model"]["merges"] = [
        merge for merge in written["model"]["merges"] if random.random() >= share
    ]
    return Tokenizer.from_str(json.dumps(written))


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write what transformers and Dynamo read beside the chat template."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _texts(seed: int) -> Iterator[str]:
    random = Random(f"{seed}/tokenizer")  # noqa: S311  no secret
    for _ in range(_SAMPLE):
        talk = conversation(random, "train")
        yield "system\nuser\nassistant\ntool\n"
        yield from (json.dumps(tool) for tool in talk.tools)
        yield from (message["content"] for message in talk.messages)
