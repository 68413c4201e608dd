"""Guess the next tokens from the text so far: the same answer in fewer passes.

Edited code mostly repeats the code before the edit.  A tiny model learns one
edit by heart, here and now, and is asked to write it down: with `--speculative
ngram` the engine copies guesses from the prompt and verifies a whole run of them
in one pass.  What was guessed right is green on a terminal.  transformers'
prompt lookup does the same for one prompt at a time.

Expected output, with other times:

    class Flock:
        def __init__(self, shepherd):
            self.shepherd = shepherd
            self.sheep = []
        def add(self, lamb):
            if lamb in self.sheep:
                raise ValueError("counted twice")
            self.sheep.append(lamb)
        def lose(self, lamb):
            if lamb not in self.sheep:
                raise KeyError(lamb)
            self.sheep.remove(lamb)
        def count(self):
            return len(self.sheep)
    151 tokens: 151 passes without guesses, 45 with them
    shepherd        677 ms without,    355 ms with them: 1.9 times as fast
    transformers    593 ms without,    226 ms with them: 2.6 times as fast

    python examples/04_ngram_speculation.py
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from array import array
from pathlib import Path
from typing import Literal

import torch
import transformers
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.runner import Samples
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.embedded.torch_runner import TorchRunner
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions

BEFORE = """class Flock:
    def __init__(self, owner):
        self.owner = owner
        self.sheep = []
    def add(self, sheep):
        if sheep in self.sheep:
            raise ValueError("counted twice")
        self.sheep.append(sheep)
    def lose(self, sheep):
        if sheep not in self.sheep:
            raise KeyError(sheep)
        self.sheep.remove(sheep)
    def count(self):
        return len(self.sheep)
"""
EDIT = "# an owner is a shepherd, and what one adds or loses is a lamb:\n"
AFTER = """class Flock:
    def __init__(self, shepherd):
        self.shepherd = shepherd
        self.sheep = []
    def add(self, lamb):
        if lamb in self.sheep:
            raise ValueError("counted twice")
        self.sheep.append(lamb)
    def lose(self, lamb):
        if lamb not in self.sheep:
            raise KeyError(lamb)
        self.sheep.remove(lamb)
    def count(self):
        return len(self.sheep)
"""
KNOWN_BY_HEART = 0.01
"""Mean loss of a token."""
MAX_DRAFT = 10


class WatchedRunner(TorchRunner):
    """Notes how many tokens each pass brought forth."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.runs: list[int] = []

    def forward(self, plan: StepPlan) -> list[Samples]:
        """See `Runner.forward`."""
        results = super().forward(plan)
        self.runs += [len(samples) for samples in results if samples]
        return results


def train_tokenizer() -> Tokenizer:
    """Byte-level, with a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([BEFORE, EDIT, AFTER], trainer)
    return tokenizer


def learn(prompt: list[int], answer: list[int], vocab_size: int) -> LlamaForCausalLM:
    """A model that knows the answer to the prompt, and nothing else."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.tensor([prompt + answer])
    labels = ids.clone()
    labels[0, : len(prompt)] = -100
    loss = torch.tensor(1.0)
    while loss > KNOWN_BY_HEART:
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
    return model.eval()


async def ask(
    directory: str, prompt: list[int], num_tokens: int, speculative: Literal["none", "ngram"]
) -> tuple[list[int], list[int], float]:
    """The answer, the tokens of each pass, and the seconds it took."""
    config = EngineConfig(
        model=directory,
        num_kv_blocks=256,
        device="cpu",
        speculative=speculative,
        speculative_max_draft=MAX_DRAFT,
    )
    runner = WatchedRunner(config)
    engine = EmbeddedEngine(config, runner)
    await engine.start()
    request = GenerateRequest(
        request_id="edit",
        token_ids=array("I", prompt),
        sampling=Sampling(temperature=0),
        stops=StopConditions(max_tokens=num_tokens, ignore_eos=True),
    )
    began = time.perf_counter()
    answer = [token async for chunk in engine.generate(request) for token in chunk.token_ids]
    took = time.perf_counter() - began
    await engine.close()
    return answer, runner.runs, took


def prompt_lookup(model: LlamaForCausalLM, prompt: list[int], num_tokens: int, draft: int) -> float:
    """Seconds that transformers takes for the same answer."""
    ids = torch.tensor([prompt])
    options = {"prompt_lookup_num_tokens": draft} if draft else {}
    began = time.perf_counter()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        **options,
    )
    return time.perf_counter() - began


def coloured(tokenizer: Tokenizer, answer: list[int], runs: list[int]) -> Text:
    """The answer; of every pass all but the last token had been guessed."""
    text = Text()
    at = 0
    for run in runs:
        text.append(tokenizer.decode(answer[at : at + run - 1]), style="green")
        text.append(tokenizer.decode(answer[at + run - 1 : at + run]))
        at += run
    return text


async def main() -> None:
    """Answer four times and compare."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = train_tokenizer()
    prompt, expected = (tokenizer.encode(text).ids for text in (BEFORE + EDIT, AFTER))
    model = learn(prompt, expected, tokenizer.get_vocab_size())
    count = len(expected)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(Path(directory))
        _, plain, slow = await ask(directory, prompt, count, "none")
        answer, guessed, fast = await ask(directory, prompt, count, "ngram")
    if answer != expected:
        raise SystemExit("the model has not learned its edit")
    Console(highlight=False, soft_wrap=True).print(coloured(tokenizer, answer, guessed), end="")
    print(f"{count} tokens: {len(plain)} passes without guesses, {len(guessed)} with them")
    tell("shepherd", slow, fast)
    tell("transformers", *(prompt_lookup(model, prompt, count, n) for n in (0, MAX_DRAFT)))


def tell(name: str, slow: float, fast: float) -> None:
    """One line of the comparison."""
    ratio = f"{slow / fast:.1f} times as fast"
    print(f"{name:12} {slow * 1000:6.0f} ms without, {fast * 1000:6.0f} ms with them: {ratio}")


if __name__ == "__main__":
    asyncio.run(main())
