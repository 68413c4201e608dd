"""A tiny chat model made from nothing, so that a demo needs no download.

Trains a Llama of half a million weights on `tiny_corpus.py` in a few seconds and
writes it as a Hugging Face directory that any engine and Dynamo's frontend
load.  It answers the questions of the corpus, wherever they stand in a
conversation, and knows nothing else.

A directory is complete or absent: it is written beside its place and renamed.
A complete one of the same recipe is used again.

    python -m shepherd_cli.tiny_model DIR
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from shepherd_cli.tiny_corpus import QUESTIONS, SYSTEM_PROMPTS, conversation, corpus_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["QUESTIONS", "SYSTEM_PROMPTS", "Progress", "make_tiny_model"]

STAMP = "shepherd_tiny_model.json"
"""Says by which recipe a complete directory was made."""

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
"""Their ids are their places: 0, 1, 2."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML, in the words that every template engine knows."""

MAX_POSITION_EMBEDDINGS = 4096
DEFAULT_STEPS = 140
_VOCABULARY_SIZE = 1024
_WARMUP_STEPS = 8
_PEAK_LEARNING_RATE = 5e-3
_STEPS_PER_REPORT = 10

Progress = Callable[[str], None]
"""Called with a few words on what is being done."""


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What a finished directory depends on."""

    version: int
    steps: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Phase:
    """Part of the training."""

    share: float
    """Of all steps."""
    batch_size: int
    num_tokens: int
    """Per sequence."""
    max_turns: int
    """Per conversation; sequences are filled with several."""


_PHASES = (
    _Phase(share=0.65, batch_size=16, num_tokens=192, max_turns=3),
    _Phase(share=0.35, batch_size=4, num_tokens=768, max_turns=24),
)
"""Short conversations teach the answers, long ones to look at the last question only."""


def make_tiny_model(
    directory: Path, *, steps: int = DEFAULT_STEPS, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Make the model in `directory`, or find it there; needs torch and transformers.

    About 20 seconds on two cores and 2 MB on disk.  A directory that an older
    recipe made is replaced.

    Raises:
        FileExistsError: the directory holds something that this function did not make.
    """
    recipe = _Recipe(version=1, steps=steps, seed=seed)
    if _recipe_of(directory) == recipe:
        return directory
    if directory.exists() and _recipe_of(directory) is None and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty and holds no {STAMP}: choose another")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as parent:
        made = Path(parent) / "model"
        made.mkdir()
        tokenizer = _train_tokenizer()
        _write_tokenizer(tokenizer, made)
        _write_model(_train(tokenizer, recipe, progress or _silent), made)
        (made / STAMP).write_text(json.dumps(asdict(recipe)))
        if directory.exists():
            directory.rename(Path(parent) / "replaced")
        made.rename(directory)
    return directory


def _recipe_of(directory: Path) -> _Recipe | None:
    try:
        return _Recipe(**json.loads((directory / STAMP).read_text()))
    except FileNotFoundError:
        return None


def _silent(text: str) -> None:
    del text


def _train_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus_texts(), trainer)
    return tokenizer


def _write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITION_EMBEDDINGS,
        "bos_token": END_OF_TEXT,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _write_model(model: Any, directory: Path) -> None:
    from transformers.utils import logging  # noqa: PLC0415

    showed_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(directory)
    finally:
        if showed_bars:
            logging.enable_progress_bar()


class _Batches:
    """Conversations as tokens, and which of the tokens are answers."""

    def __init__(self, tokenizer: Tokenizer, random: Random) -> None:
        self._random = random
        self._encode = cache(lambda text: tokenizer.encode(text).ids)

    def sequences(self, phase: _Phase) -> list[list[tuple[int, bool]]]:
        """One batch, each sequence one token longer than the model is shown."""
        return [self._sequence(phase) for _ in range(phase.batch_size)]

    def _sequence(self, phase: _Phase) -> list[tuple[int, bool]]:
        sequence: list[tuple[int, bool]] = []
        while len(sequence) <= phase.num_tokens:
            num_turns = self._random.randint(1, phase.max_turns)
            for message in conversation(self._random, num_turns):
                opening = self._encode(f"{IM_START}{message['role']}\n")
                content = self._encode(message["content"] + IM_END)
                learned = message["role"] == "assistant"
                sequence += [(token_id, False) for token_id in opening]
                sequence += [(token_id, learned) for token_id in content]
                sequence += [(token_id, False) for token_id in self._encode("\n")]
        return sequence[: phase.num_tokens + 1]


def _train(tokenizer: Tokenizer, recipe: _Recipe, progress: Progress) -> Any:
    """A transformers model that has learned the corpus."""
    import torch  # noqa: PLC0415

    batches = _Batches(tokenizer, Random(recipe.seed))  # noqa: S311 - no secret
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _new_model(tokenizer.get_vocab_size())
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
        for step, phase in enumerate(_schedule(recipe.steps)):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, recipe.steps)
            batch = torch.tensor(batches.sequences(phase))
            token_ids, learned = batch[..., 0], batch[:, 1:, 1].bool()
            hidden = model.model(input_ids=token_ids[:, :-1]).last_hidden_state
            logits = model.lm_head(hidden[learned])
            loss = torch.nn.functional.cross_entropy(logits, token_ids[:, 1:][learned])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % _STEPS_PER_REPORT == 0:
                progress(f"step {step + 1} of {recipe.steps}, loss {loss.item():.3f}")
    return model


def _new_model(vocabulary_size: int) -> Any:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_POSITION_EMBEDDINGS,
            tie_word_embeddings=True,
            **ids,
        )
    )
    model.generation_config = GenerationConfig(**ids)
    return model


def _schedule(steps: int) -> Iterator[_Phase]:
    first, second = _PHASES
    for step in range(steps):
        yield first if step < first.share * steps else second


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    return _PEAK_LEARNING_RATE * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def main(arguments: list[str] | None = None) -> int:
    """Make the model in the directory that the command line names."""
    parser = argparse.ArgumentParser(
        prog="shepherd_cli.tiny_model", description="Make the demo's tiny chat model."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    made = make_tiny_model(
        options.directory, steps=options.steps, seed=options.seed, progress=_to_stderr
    )
    sys.stdout.write(f"{made}\n")
    return 0


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
