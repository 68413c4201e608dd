"""Models by path, by URL and by name: real weights, a real HTTP server."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from shepherd_config import OptionError
from shepherd_memory.config import load_config
from shepherd_memory.embedding import create_embedder, create_reranker
from shepherd_memory.errors import ModelUnavailableError, UnusableModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "whale", "shark", "sings", "a"]


class EmbeddingsEndpoint(BaseHTTPRequestHandler):
    """Answers as OpenAI's embeddings do, last text first; or as it is told."""

    asked: ClassVar[list[tuple[str, str | None, Any]]] = []
    answer: ClassVar[bytes | None] = None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, self.headers["authorization"], body))
        rows = [
            {"index": place, "embedding": [3.0, 4.0 * (text == "whale"), 0.0]}
            for place, text in enumerate(body["input"])
        ]
        answer = self.answer or json.dumps({"data": rows[::-1]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    EmbeddingsEndpoint.asked, EmbeddingsEndpoint.answer = [], None
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmbeddingsEndpoint)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    serving.join()


def test_an_endpoint_is_asked_as_openais_and_its_vectors_have_length_1(endpoint: str) -> None:
    embedder = create_embedder(f"{endpoint}/#small", api_key="secret")
    assert embedder is not None

    rows = embedder.embed(["whale", "shark"], is_query=True)

    assert rows.tolist() == [pytest.approx([0.6, 0.8, 0.0]), pytest.approx([1.0, 0.0, 0.0])]
    assert (embedder.dimensions, embedder.name) == (3, f"{endpoint}/embeddings small")
    asked = EmbeddingsEndpoint.asked[-1]
    assert asked[:2] == ("/v1/embeddings", "Bearer secret")
    assert asked[2] == {"model": "small", "input": ["whale", "shark"]}


@pytest.mark.parametrize(
    "answer",
    [b"no json", b"[]", b'{"data": [{"index": 0}]}', b'{"data": [{"index": 0, "embedding": [1]}]}'],
)
def test_an_endpoint_that_answers_something_else_is_unavailable(
    endpoint: str, answer: bytes
) -> None:
    embedder = create_embedder(f"{endpoint}#small")
    assert embedder is not None
    EmbeddingsEndpoint.answer = answer

    with pytest.raises(ModelUnavailableError):
        embedder.embed(["whale"], is_query=False)


def test_an_endpoint_that_is_not_there_is_told_at_the_start() -> None:
    with pytest.raises(UnusableModelError, match="refused"):
        create_embedder("http://127.0.0.1:1/v1#small")
    with pytest.raises(UnusableModelError, match="behind a #"):
        create_embedder("http://127.0.0.1:1/v1")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a vocabulary of nine words, as it would be published."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(1)
    directory = tmp_path_factory.mktemp("bert")
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    BertModel(_tiny(BertConfig)).save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return directory


def _tiny(config: Any, **settings: object) -> Any:
    return config(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        **settings,
    )


def test_a_model_in_a_directory_embeds_alike_whatever_stands_beside_it(bert: Path) -> None:
    embedder = create_embedder(str(bert))
    assert embedder is not None

    alone = embedder.embed(["a whale sings"], is_query=False)
    together = embedder.embed(["shark", "a whale sings"] * 20 + ["whale " * 99], is_query=False)

    assert alone.shape == (1, embedder.dimensions) == (1, 16)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert abs(float(together[0] @ together[1])) < 0.9999
    assert embedder.embed([], is_query=True).shape == (0, 16)


def test_other_weights_or_settings_are_another_model(bert: Path) -> None:
    before = create_embedder(str(bert))
    settings = bert / "config_sentence_transformers.json"
    settings.write_text('{"prompts": {"query": "a whale "}}')
    try:
        after = create_embedder(str(bert))
    finally:
        settings.unlink()

    assert before is not None
    assert after is not None
    assert before.name != after.name
    asked, prompted = (
        before.embed(["a whale shark"], is_query=True),
        after.embed(["shark"], is_query=True),
    )
    np.testing.assert_allclose(asked, prompted, atol=1e-5)
    assert create_embedder("none") is None


def test_a_cross_encoder_reads_question_and_text_together(tmp_path: Path, bert: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    BertForSequenceClassification(_tiny(BertConfig, num_labels=1)).save_pretrained(tmp_path)
    reranker = create_reranker(str(tmp_path))
    assert reranker is not None

    scores = reranker.score("whale", ["a whale sings", "a shark"])

    assert len(set(scores)) == 2
    assert list(reranker.score("whale", ["a whale sings"])) == [pytest.approx(scores[0], abs=1e-5)]
    assert create_reranker("none") is None


def test_a_cross_encoder_whose_labels_have_no_weights_is_refused(
    tmp_path: Path, bert: Path
) -> None:
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    settings = json.loads((bert / "config.json").read_text())
    settings |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "fits"},
        "label2id": {"fits": 0},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))

    with pytest.raises(UnusableModelError, match=r"classifier\.bias"):
        create_reranker(str(tmp_path))


def test_an_embedding_model_reranks_token_by_token(bert: Path) -> None:
    reranker = create_reranker(str(bert))
    assert reranker is not None

    scores = reranker.score("a whale sings", ["shark", "a whale sings", "", *["shark " * 99] * 20])

    assert scores[1] == pytest.approx(1.0, abs=1e-5)
    assert scores[2] == 0.0
    assert scores[0] < 0.999
    assert scores[3:] == [pytest.approx(scores[3], abs=1e-5)] * 20
    assert reranker.score("a whale", []) == []


def test_weights_of_half_precision_are_computed_in_full(tmp_path: Path, bert: Path) -> None:
    from transformers import AutoModel

    for name in ("half", "full"):
        shutil.copytree(bert, tmp_path / name)
        halved = AutoModel.from_pretrained(bert).half()
        (halved if name == "half" else halved.float()).save_pretrained(tmp_path / name)
    half, full = (create_embedder(str(tmp_path / name)) for name in ("half", "full"))
    assert half is not None
    assert full is not None

    texts = ["a whale sings", "shark"]

    np.testing.assert_allclose(
        half.embed(texts, is_query=False), full.embed(texts, is_query=False), atol=1e-6
    )


def test_a_directory_without_a_model_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UnusableModelError, match="safetensors"):
        create_embedder(str(tmp_path))
    with pytest.raises(UnusableModelError, match="safetensors"):
        create_reranker(str(tmp_path))
    with pytest.raises(UnusableModelError, match="none or a model's directory"):
        create_reranker("nowhere")


def test_word_vectors_need_no_download() -> None:
    pytest.importorskip("wordllama", reason="the extra [embedding] is not installed")
    embedder = create_embedder("wordllama")
    assert embedder is not None

    whale, orca, invoice = embedder.embed(["a whale", "an orca", "an invoice"], is_query=False)

    assert whale @ orca > whale @ invoice
    assert embedder.dimensions == len(whale)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--embedder", "word2vec"),
        ("--embedder", "https://host/v1"),
        ("--embedder-key-file", "/nowhere"),
        ("--reranker", "nowhere"),
        ("--archive-max-days", "-1"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(flag: str, value: str) -> None:
    with pytest.raises(OptionError) as caught:
        load_config([flag, value], {})

    assert flag in str(caught.value)
    assert value in str(caught.value)
