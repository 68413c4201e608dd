"""Greedy answers of a model directory, by transformers, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from shepherd_events.chat_template import ChatTemplate, Conversation
from shepherd_tiny_chat.evaluation.cases import Case

MAX_NEW_TOKENS = 64


class Answerer:
    """Answers cases, those of like length together."""

    def __init__(self, directory: Path, *, device: str = "cpu", batch_size: int = 64) -> None:
        self._device = device
        self._batch_size = batch_size
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._template = ChatTemplate((directory / "chat_template.jinja").read_text(), {})
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._model.to(device).eval()

    def __call__(self, cases: Sequence[Case]) -> list[str]:
        """The model's next message in each case."""
        prompts = [self.prompt(case) for case in cases]
        order = sorted(range(len(cases)), key=lambda place: len(prompts[place]))
        answers = [""] * len(cases)
        for begin in range(0, len(order), self._batch_size):
            places = order[begin : begin + self._batch_size]
            for place, text in zip(
                places, self._generate([prompts[place] for place in places]), strict=True
            ):
                answers[place] = text
        return answers

    def prompt(self, case: Case) -> list[int]:
        """The tokens that the model is given."""
        text = self._template.render(Conversation(case.messages, True, case.tools))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _generate(self, prompts: list[list[int]]) -> list[str]:
        longest = max(map(len, prompts))
        padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self._device
        )
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=padded,
                attention_mask=mask,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
            )
        return [self._tokenizer.decode(row) for row in output[:, longest:].tolist()]
