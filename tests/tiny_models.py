"""Random causal language models small enough for a test, in Hugging Face layout.

Their weights are drawn with a large deviation, so that outputs vary instead of
repeating one token.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

Kind = Literal["llama", "qwen2", "qwen3", "mistral"]

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
MAX_SEQ_LEN = 512
SLIDING_WINDOW = 24
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "system user assistant You are a helpful assistant. "
    "The shepherd counts the sheep of the flock and remembers every one of them. "
    "What the cache forgets, the memory keeps: question, answer, turn, session. "
    "Where is the lamb? In the valley, near the river, behind the old mill."
)


def make_tiny_model(directory: Path, kind: Kind = "llama", seed: int = 0) -> Path:
    """Write a model, its tokenizer and its configuration; returns the directory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    directory.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(directory)
    config = AutoConfig.for_model(kind, **_shape(kind), vocab_size=len(vocab))
    config.eos_token_id = vocab[IM_END]
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    torch.set_rng_state(state)
    model.generation_config = GenerationConfig(eos_token_id=vocab[IM_END], do_sample=False)
    model.save_pretrained(directory)
    return directory


@functools.cache
def tiny_model(kind: Kind = "llama", seed: int = 0) -> Path:
    """The directory of a model that all tests of a session share; not to be changed."""
    directory = Path(tempfile.mkdtemp(prefix=f"tiny-{kind}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return make_tiny_model(directory, kind, seed)


def _shape(kind: Kind) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_SEQ_LEN,
        "tie_word_embeddings": False,
    }
    if kind == "qwen3":
        shape["head_dim"] = 16
    if kind == "mistral":
        shape["sliding_window"] = SLIDING_WINDOW
    if kind == "qwen2":
        shape |= {"use_sliding_window": True, "max_window_layers": 1}
        shape["sliding_window"] = SLIDING_WINDOW
    return shape


def write_tokenizer(
    directory: Path, *, special_tokens: tuple[str, ...] = (), chat_template: str = _CHAT_TEMPLATE
) -> dict[str, int]:
    """Write a byte-level tokenizer trained on three lines; returns its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[IM_START, IM_END, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": chat_template,
        "eos_token": IM_END,
        "model_max_length": MAX_SEQ_LEN,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    vocab: dict[str, int] = tokenizer.get_vocab()
    return vocab
