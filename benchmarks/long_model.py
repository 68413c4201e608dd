"""A model with a long context that always says the same word: for times to the first token.

It computes what a model of its shape computes; only what comes out is fixed, so that
answers can be archived and recognised word for word whatever was asked.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from shepherd_tiny_chat import MODEL_DIR

MAX_SEQ_LEN = 40_960
WORD = "well"
_COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")  # fmt: skip


def make_long_model(directory: Path) -> Tokenizer:
    """Write the model with the tiny chat model's tokenizer, which is returned."""
    directory.mkdir(parents=True)
    for name in _COPIED:
        shutil.copy(MODEL_DIR / name, directory / name)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=MAX_SEQ_LEN,
            eos_token_id=tokenizer.token_to_id("<|im_end|>"),
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 10.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.encode(WORD).ids[0], 0] = 1.0
    model.save_pretrained(directory)
    return tokenizer
