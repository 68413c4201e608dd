"""A tiny vision-language model made from nothing: it knows eight colours by sight.

Trains a LLaVA of a hundred thousand weights in a few seconds, on plain pictures
and one question, and writes it as a Hugging Face directory with tokenizer, chat
template and image processor.

    python -m shepherd_cli.tiny_vision_model DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COLOURS: Final[Mapping[str, tuple[int, int, int]]] = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (30, 60, 220),
    "yellow": (235, 220, 40),
    "purple": (140, 30, 160),
    "orange": (240, 140, 20),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
QUESTION: Final = "What colour is it?"

IM_START, IM_END, IMAGE = "<|im_start|>", "<|im_end|>", "<|image|>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<|image|>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML that takes text, or parts of text and images as OpenAI has them."""
IMAGE_SIZE: Final = 16
PATCH_SIZE: Final = 4
DEFAULT_STEPS: Final = 60
_BATCH_SIZE: Final = 16
_NOISE: Final = 20
_LEARNING_RATE: Final = 4e-3


def make_tiny_vision_model(directory: Path, *, steps: int = DEFAULT_STEPS, seed: int = 0) -> Path:
    """Make the model in a new directory; needs torch and transformers, and a few seconds."""
    from transformers.utils import logging  # noqa: PLC0415

    directory.mkdir(parents=True)
    tokenizer = _train_tokenizer()
    _write_tokenizer(tokenizer, directory)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_center_crop": False,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    with _one_thread():
        model = _train(tokenizer, directory, steps, seed)
    logging.disable_progress_bar()
    model.save_pretrained(directory)
    return directory


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, very much so on a busy machine."""
    import torch  # noqa: PLC0415

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def paint(colour: str, random: Random | None = None) -> bytes:
    """A plain picture of `IMAGE_SIZE` squared in RGB; `random` makes its colour a little off."""
    levels = [
        max(0, min(255, level + (random.randint(-_NOISE, _NOISE) if random else 0)))
        for level in COLOURS[colour]
    ]
    return bytes(levels) * IMAGE_SIZE**2


def _train_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        min_frequency=1,
        special_tokens=[IM_START, IM_END, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    answers = [f"It is {colour}." for colour in COLOURS]
    tokenizer.train_from_iterator([QUESTION, "user assistant system", *answers], trainer)
    return tokenizer


def _write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        "eos_token": IM_END,
        "pad_token": IM_END,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def prompt() -> str:
    """What the chat template makes of the question and one picture after it."""
    return f"{IM_START}user\n{QUESTION}{IMAGE}{IM_END}\n{IM_START}assistant\n"


def _train(tokenizer: Tokenizer, directory: Path, steps: int, seed: int) -> Any:
    import torch  # noqa: PLC0415
    from transformers import AutoImageProcessor  # noqa: PLC0415

    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    random = Random(seed)  # noqa: S311 - no secret
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(tokenizer)
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * min(1.0, (step + 1) / 8, (steps - step) / 20)
            colours = random.choices(list(COLOURS), k=_BATCH_SIZE)
            batch = _batch(tokenizer, processor, colours, random)
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return model


def _batch(
    tokenizer: Tokenizer, processor: Any, colours: list[str], random: Random
) -> dict[str, Any]:
    """Prompts with answers, all but the answers masked from the loss."""
    import torch  # noqa: PLC0415
    from PIL.Image import frombytes  # noqa: PLC0415

    num_places = (IMAGE_SIZE // PATCH_SIZE) ** 2
    question = tokenizer.encode(prompt().replace(IMAGE, IMAGE * num_places)).ids
    answers = [tokenizer.encode(f"It is {colour}.{IM_END}").ids for colour in colours]
    longest, end = max(map(len, answers)), answers[0][-1]
    padded = [answer + [end] * (longest - len(answer)) for answer in answers]
    labels = [answer + [-100] * (longest - len(answer)) for answer in answers]
    pictures = [
        frombytes("RGB", (IMAGE_SIZE, IMAGE_SIZE), paint(colour, random)) for colour in colours
    ]
    return {
        "input_ids": torch.tensor([question + answer for answer in padded]),
        "labels": torch.tensor([[-100] * len(question) + answer for answer in labels]),
        "pixel_values": processor(images=pictures, return_tensors="pt")["pixel_values"],
    }


def _new_model(tokenizer: Tokenizer) -> Any:
    from transformers import (  # noqa: PLC0415
        CLIPVisionConfig,
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    end = tokenizer.token_to_id(IM_END)
    text = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=32,
    )
    image = tokenizer.token_to_id(IMAGE)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=image)
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    return model


def main(arguments: list[str] | None = None) -> int:
    """Make the model in the directory that the command line names."""
    parser = argparse.ArgumentParser(
        prog="shepherd_cli.tiny_vision_model", description="Make a tiny model that knows colours."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    made = make_tiny_vision_model(options.directory, steps=options.steps, seed=options.seed)
    sys.stdout.write(f"{made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
