"""Models from a directory, by transformers: sentence embeddings and rerankers.

The directory is a sentence-transformers model as it is published: weights in
safetensors, a tokenizer, `1_Pooling/config.json` that says how tokens become a
sentence (mean where it says nothing, or the first token), and prompts for
queries and texts in `config_sentence_transformers.json`.  Nothing is
downloaded, no code of the model's is run, no weight is made up.  One call at a
time, on the CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from shepherd_memory.embedding.protocol import SENTENCE_WEIGHT
from shepherd_memory.errors import UnusableModelError
from shepherd_memory.retrieval.dense import Matrix, normalised
from shepherd_memory.retrieval.late_interaction import Tokens, late_interaction

BATCH = 16
MAX_TOKENS = 512


class LocalEmbedder:
    """`Embedder` by a sentence-transformers model."""

    weight = SENTENCE_WEIGHT

    def __init__(self, directory: Path) -> None:
        """Load the model.

        Raises:
            UnusableModelError: the directory holds no such model.
        """
        self._tokenizer, self._model = _loaded(directory, AutoModel)
        pooling = _settings(directory / "1_Pooling" / "config.json")
        self._first_token = bool(pooling.get("pooling_mode_cls_token"))
        known = {"pooling_mode_cls_token", "pooling_mode_mean_tokens"}
        other = [key for key in pooling if key.startswith("pooling_mode_") and pooling[key]]
        if not known.issuperset(other):
            raise UnusableModelError(str(directory), f"mean or cls pooling, not {other}")
        prompts = _settings(directory / "config_sentence_transformers.json").get("prompts", {})
        self._prompts = {True: prompts.get("query", ""), False: prompts.get("document", "")}
        self._lock = Lock()
        self.dimensions: int = self._model.config.hidden_size
        self.name = f"{directory.name} {_fingerprint(directory)}"

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        """See `Embedder.embed`."""
        prompt = self._prompts[is_query]
        rows = np.empty((len(texts), self.dimensions), np.float32)
        for places in _alike_in_length(texts):
            some = [prompt + texts[place] for place in places]
            with self._lock, torch.inference_mode():
                read = _read(self._tokenizer, self._model, some)
                states = self._model(**read).last_hidden_state
                if self._first_token:
                    pooled = states[:, 0]
                else:
                    mask = read["attention_mask"].unsqueeze(-1)
                    pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
                rows[places] = pooled.float().numpy()
        return normalised(rows)


class CrossEncoder:
    """`Reranker` by a model with one label, which reads question and text together."""

    def __init__(self, directory: Path) -> None:
        """Load the model.

        Raises:
            UnusableModelError: the directory holds no such model.
        """
        self._tokenizer, self._model = _loaded(directory, AutoModelForSequenceClassification)
        if self._model.config.num_labels != 1:
            raise UnusableModelError(
                str(directory), f"a model of one label, not {self._model.config.num_labels}"
            )
        self._lock = Lock()

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `Reranker.score`."""
        scores = np.empty(len(texts))
        for places in _alike_in_length(texts):
            pairs = [(query, texts[place]) for place in places]
            with self._lock, torch.inference_mode():
                read = _read(self._tokenizer, self._model, pairs)
                scores[places] = self._model(**read).logits[:, 0].float().numpy()
        return scores.tolist()


class TokenComparer:
    """`Reranker` by an embedding model, which reads question and texts each by itself."""

    def __init__(self, directory: Path) -> None:
        """Load the model.

        Raises:
            UnusableModelError: the directory holds no such model.
        """
        self._tokenizer, self._model = _loaded(directory, AutoModel)
        self._lock = Lock()

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `Reranker.score`."""
        found: dict[int, Tokens] = {}
        for places in _alike_in_length(texts):
            read = self._tokens([texts[place] for place in places])
            found |= dict(zip(places, read, strict=True))
        (asked,) = self._tokens([query])
        return late_interaction(asked, [found[place] for place in range(len(texts))])

    def _tokens(self, texts: list[str]) -> list[Tokens]:
        with self._lock, torch.inference_mode():
            read = _read(self._tokenizer, self._model, texts, return_special_tokens_mask=True)
            marks = read.pop("special_tokens_mask").bool()
            states = self._model(**read).last_hidden_state.float()
        return [
            Tokens(ids[~mark].numpy(), normalised(rows[~mark].numpy()))
            for ids, rows, mark in zip(read["input_ids"], states, marks, strict=True)
        ]


def is_classifier(directory: Path) -> bool:
    """Whether a model ends in labels, as cross-encoders do, by what it says of itself."""
    architectures = _settings(directory / "config.json").get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def _loaded(directory: Path, kind: Any) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model, read = kind.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UnusableModelError(str(directory), f"a model in safetensors: {error}") from error
    # What is missing would be random.  Nothing here asks the pooler of a model without labels.
    optional = "pooler." if kind is AutoModel else ()
    if missing := sorted(key for key in read["missing_keys"] if not key.startswith(optional)):
        raise UnusableModelError(str(directory), f"a model with the weights {missing[:3]}")
    if model.dtype == torch.float16:  # which processors compute several times slower
        model = model.float()
    return tokenizer, model.eval()


def _alike_in_length(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places of `BATCH` texts at a time, short ones first: what pads a batch is computed as well."""
    places = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for first in range(0, len(places), BATCH):
        yield places[first : first + BATCH]


def _read(tokenizer: Any, model: Any, texts: Any, **asked: bool) -> Any:
    limit = getattr(model.config, "max_position_embeddings", MAX_TOKENS)
    return tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=min(MAX_TOKENS, limit),
        return_tensors="pt",
        **asked,
    )


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text())
    return settings


def _fingerprint(directory: Path) -> str:
    """Of the weights and how they are used: other ones give other vectors."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in {".json", ".safetensors"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
