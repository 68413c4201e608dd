from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from chat_models import MARKERS, Model, byte_level_tokenizer, contents, model
from shepherd_events.transcript import TokenizerAssets, TokenizerNotFoundError, TranscriptReader

CHATML = model("chatml").text


def test_assets_are_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("Grüße")
    (tmp_path / "model.safetensors").write_bytes(b"\xff")

    assert TokenizerAssets.from_directory(tmp_path).files == {
        "tokenizer.json": "{}",
        "chat_template.jinja": "Grüße",
    }


def test_a_directory_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerNotFoundError) as caught:
        TokenizerAssets.from_directory(tmp_path)

    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value) == (
        f"{tmp_path} has no tokenizer.json: name a directory in Hugging Face layout"
    )


def test_assets_travel_as_json() -> None:
    assets = model("chatml").assets
    received = TokenizerAssets.from_json(json.loads(json.dumps(assets.to_json())))
    tokens = model("chatml").tokens(("user", "東京"))

    assert received == assets
    assert contents(TranscriptReader(received).read(tokens)) == [("user", "東京")]


def test_received_assets_are_checked() -> None:
    with pytest.raises(TokenizerNotFoundError):
        TokenizerAssets.from_json({"chat_template.jinja": "x"})
    with pytest.raises(TypeError, match=r"tokenizer.json is a int: expected its text"):
        TokenizerAssets.from_json({"tokenizer.json": 1})
    with pytest.raises(TokenizerNotFoundError):
        TranscriptReader(TokenizerAssets({}))

    assert TokenizerAssets.from_json({"tokenizer.json": "{}", "../x": "y"}).files == {
        "tokenizer.json": "{}"
    }


def test_special_tokens_are_read_in_both_of_their_forms() -> None:
    files = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"eos_token": {"content": "</s>"}, "pad_token": null}',
        "special_tokens_map.json": '{"bos_token": "<s>", "eos_token": "old"}',
    }

    assert TokenizerAssets(files).special_tokens() == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("config", "ids"),
    [("{}", set()), ('{"eos_token_id": 2}', {2}), ('{"eos_token_id": [2, 5]}', {2, 5})],
)
def test_end_tokens_are_one_or_several(config: str, ids: set[int]) -> None:
    assets = TokenizerAssets({"tokenizer.json": "{}", "generation_config.json": config})

    assert assets.eos_token_ids() == ids


def test_of_several_templates_those_for_chats_are_taken() -> None:
    named = [{"name": name, "template": name} for name in ("default", "rag", "tool_use")]
    config = json.dumps({"chat_template": named})
    files = {"tokenizer.json": "{}", "tokenizer_config.json": config}

    assert TokenizerAssets(files).chat_templates() == ("default", "tool_use")
    files["chat_template.jinja"] = "its own file"
    assert TokenizerAssets(files).chat_templates() == ("its own file",)


def test_a_model_without_a_template_reads_as_raw_text() -> None:
    base = TranscriptReader(
        TokenizerAssets({"tokenizer.json": model("chatml").assets.files["tokenizer.json"]})
    )
    tokens = model("chatml").encode("Once upon <|im_end|>")

    assert contents(base.read(tokens)) == [("raw", "Once upon <|im_end|>")]


def test_every_end_token_of_the_generation_config_ends_an_answer() -> None:
    tokenizer = byte_level_tokenizer([*MARKERS["chatml"], "<|stop|>"])
    stop = tokenizer.token_to_id("<|stop|>")
    chatml = Model(CHATML, tokenizer, {"eos_token": "<|im_end|>"})
    files = chatml.assets.files | {"generation_config.json": json.dumps({"eos_token_id": [stop]})}
    tokens = chatml.tokens(("user", "hi"), answer=True) + chatml.encode("ok<|stop|>")

    assert contents(TranscriptReader(TokenizerAssets(files)).read(tokens))[-1] == (
        "assistant",
        "ok",
    )


def test_markers_that_swallow_the_white_space_behind_them_are_learned_as_they_read() -> None:
    markers = ["<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"]
    tokenizer = byte_level_tokenizer([])
    tokenizer.add_special_tokens([AddedToken(each, rstrip=True, special=True) for each in markers])
    phi = Model(model("phi3").text, tokenizer, {"eos_token": "<|endoftext|>"})

    assert phi.reader.decode(phi.tokens(("user", "hi"))) == "<|user|>hi<|end|><|endoftext|>"
    assert phi.read(phi.render(("user", "hi "), ("assistant", "ok\n"))) == [
        ("user", "hi "),
        ("assistant", "ok\n"),
    ]


def test_a_tokenizer_of_an_unknown_kind_reads_as_raw_text() -> None:
    words = Tokenizer(models.WordLevel({"hi": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    unknown = Model(CHATML, words, {})

    assert unknown.read("hi") == [("raw", "hi")]
    with pytest.raises(ValueError, match="neither byte-level nor SentencePiece-like"):
        unknown.reader.stream()


def test_truncation_in_the_tokenizers_file_does_not_hide_the_template() -> None:
    tokenizer = byte_level_tokenizer(MARKERS["chatml"])
    tokenizer.enable_truncation(4)

    assert Model(CHATML, tokenizer, {}).reader.understands_template


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=40))
def test_a_stream_shows_each_character_once_and_exactly(kind: str, text: str) -> None:
    tokens = model("chatml", kind).encode(f"<|im_start|>{text}")
    stream = model("chatml", kind).reader.stream()
    shown = [stream.push((token,)) for token in tokens]

    assert stream.finish() == ""
    assert "".join(shown) in (f"<|im_start|>{text}", f"<|im_start|> {text}")


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_a_character_is_shown_by_the_token_that_completes_it(kind: str) -> None:
    stream = model("chatml", kind).reader.stream()
    *begun, last = model("chatml", kind).encode("x🀄")
    shown = "".join(stream.push((token,)) for token in begun)

    assert shown.strip() == "x"
    assert stream.push((last,)) == "🀄"


def test_a_character_that_is_never_completed_is_replaced() -> None:
    stream = model("chatml").reader.stream()
    *begun, _ = model("chatml").encode("🀄")

    assert stream.push(begun) == ""
    assert stream.finish() == "�"


def test_bytes_that_are_never_text_are_not_taken_for_markers() -> None:
    chatml = model("chatml")
    ids = {token: chatml.tokenizer.token_to_id(token) for token in ("ÿ", "ø")}
    tokens = chatml.encode("<|im_start|>user\n")
    tokens += array("I", [ids["ÿ"], *[ids["ø"]] * 7])

    assert contents(chatml.reader.read(tokens)) == [("user", "�" * 8)]
