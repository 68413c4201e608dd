"""Texts to vectors, by whatever model the operator names; none by default.

    none                     words alone
    wordllama                a small table of word vectors that comes with the package [embedding]
    /path/to/model           a sentence-transformers model in safetensors, by transformers
    https://host/v1#model    an OpenAI-compatible embeddings endpoint

Each is imported when it is named.
"""

from __future__ import annotations

from pathlib import Path

from shepherd_memory.embedding.protocol import Embedder, Reranker
from shepherd_memory.errors import UnusableModelError

NONE = "none"


def create_embedder(named: str, *, api_key: str = "") -> Embedder | None:
    """The embedder of an option's value; None for `none`.

    Raises:
        UnusableModelError: there is no such model here, or its package is missing.
    """
    if named == NONE:
        return None
    try:
        if named == "wordllama":
            from shepherd_memory.embedding.word_vectors import WordVectors  # noqa: PLC0415  an extra

            return WordVectors()
        if named.startswith(("http://", "https://")):
            from shepherd_memory.embedding.endpoint import EndpointEmbedder  # noqa: PLC0415  only then

            return EndpointEmbedder(named, api_key=api_key)
        if Path(named).is_dir():
            from shepherd_memory.embedding.local_model import LocalEmbedder  # noqa: PLC0415  an extra

            return LocalEmbedder(Path(named))
    except ModuleNotFoundError as error:
        raise UnusableModelError(named, f"the package {error.name} is not installed") from error
    raise UnusableModelError(
        named, "none, wordllama, a model's directory or the URL of an endpoint"
    )


def create_reranker(named: str) -> Reranker | None:
    """The reranker of an option's value; None for `none`.

    A directory with a cross-encoder is one; with an embedding model, it compares token by token.

    Raises:
        UnusableModelError: there is no such model here, or its package is missing.
    """
    if named == NONE:
        return None
    try:
        if Path(named).is_dir():
            from shepherd_memory.embedding import local_model  # noqa: PLC0415  an extra

            if local_model.is_classifier(Path(named)):
                return local_model.CrossEncoder(Path(named))
            return local_model.TokenComparer(Path(named))
    except ModuleNotFoundError as error:
        raise UnusableModelError(named, f"the package {error.name} is not installed") from error
    raise UnusableModelError(named, "none or a model's directory")
