"""Vectors from any OpenAI-compatible embeddings endpoint.

`https://host/v1#model` posts to `https://host/v1/embeddings`.  The dimensions
are those of a first answer, so that a wrong URL or model shows at the start.
Called from threads, never from the event loop.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urldefrag

import numpy as np

from shepherd_memory.embedding.protocol import SENTENCE_WEIGHT
from shepherd_memory.errors import ModelUnavailableError, UnusableModelError
from shepherd_memory.retrieval.dense import Matrix, normalised

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 2**20


class EndpointEmbedder:
    """`Embedder` behind a URL."""

    weight = SENTENCE_WEIGHT

    def __init__(self, named: str, *, api_key: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """Ask once, for the dimensions.

        Raises:
            UnusableModelError: there is no model in the URL, or no answer to it.
        """
        url, self._model = urldefrag(named)
        if not self._model:
            raise UnusableModelError(named, "the model behind a #, as https://host/v1#model")
        self._url = f"{url.rstrip('/')}/embeddings"
        self._api_key = api_key
        self._timeout_s = timeout_s
        self.name = f"{self._url} {self._model}"
        try:
            self.dimensions = self._asked(["dimensions"]).shape[1]
        except ModelUnavailableError as error:
            raise UnusableModelError(named, error.reason) from error

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Matrix:
        """See `Embedder.embed`."""
        del is_query
        vectors = self._asked(list(texts))
        if vectors.shape != (len(texts), self.dimensions):
            raise ModelUnavailableError(
                self.name,
                f"expected {len(texts)} vectors of {self.dimensions}, not {vectors.shape}",
            )
        return vectors

    def _asked(self, texts: list[str]) -> Matrix:
        headers = {"content-type": "application/json"}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        body = json.dumps({"model": self._model, "input": texts}).encode()
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310  the operator's own URL, http or https
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310  as above
                return _vectors_in(json.loads(answer.read(MAX_ANSWER_BYTES)))
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise ModelUnavailableError(self.name, str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelUnavailableError(self.name, f"not an embeddings answer: {error}") from error


def _vectors_in(answer: Any) -> Matrix:
    rows = sorted(answer["data"], key=lambda row: row["index"])
    return normalised(np.array([row["embedding"] for row in rows], dtype=np.float32))
