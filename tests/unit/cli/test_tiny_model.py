from __future__ import annotations

import json
import subprocess
import sys
from array import array
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from shepherd_cli.tiny_corpus import conversation
from shepherd_cli.tiny_model import QUESTIONS, STAMP, main, make_tiny_model
from shepherd_events.transcript import TokenizerAssets, TranscriptReader

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    STAMP,
}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "untrained", steps=2)


def test_answers_are_full_sentences_that_no_two_questions_share() -> None:
    questions, answers = zip(*QUESTIONS, strict=True)

    assert len(QUESTIONS) >= 30
    assert len(set(questions)) == len(set(answers)) == len(QUESTIONS)
    assert all(10 <= len(answer.split()) <= 25 for answer in answers)
    assert all(answer.endswith(".") for answer in answers)


def test_the_same_seed_makes_the_same_conversations() -> None:
    first, second = conversation(Random(7), 3), conversation(Random(7), 3)

    assert first == second
    assert [message["role"] for message in first if message["role"] != "system"] == [
        "user",
        "assistant",
    ] * 3


def test_importing_the_module_does_not_import_torch() -> None:
    program = (
        "import sys, shepherd_cli.tiny_model as m; print({'torch', 'tokenizers'} & {*sys.modules})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert shown.stdout == "set()\n"


def test_a_directory_holds_all_that_an_engine_and_a_frontend_read(untrained: Path) -> None:
    config = json.loads((untrained / "config.json").read_text())
    tokenizer_config = json.loads((untrained / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(untrained / "tokenizer.json"))

    assert {file.name for file in untrained.iterdir()} == FILES
    assert sum(file.stat().st_size for file in untrained.iterdir()) < 4_000_000
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 2048
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert config["eos_token_id"] == tokenizer.token_to_id(tokenizer_config["eos_token"])
    assert config["bos_token_id"] == tokenizer.token_to_id(tokenizer_config["bos_token"])
    assert config["pad_token_id"] == tokenizer.token_to_id(tokenizer_config["pad_token"])
    assert json.loads((untrained / "generation_config.json").read_text())["eos_token_id"] == 2


def test_its_conversations_can_be_read_back(untrained: Path) -> None:
    reader = TranscriptReader(TokenizerAssets.from_directory(untrained))
    text = (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n東京<|im_end|>\n"
        "<|im_start|>assistant\nSunlight"
    )
    tokens = Tokenizer.from_file(str(untrained / "tokenizer.json")).encode(text).ids

    assert [(each.role, each.text) for each in reader.read(array("I", tokens))] == [
        ("system", "be brief"),
        ("user", "Why is the sky blue?"),
        ("assistant", ""),
        ("tool", "東京"),
        ("assistant", "Sunlight"),
    ]


def test_the_same_seed_makes_the_same_weights(untrained: Path, tmp_path: Path) -> None:
    again = make_tiny_model(tmp_path / "again", steps=2)
    other = make_tiny_model(tmp_path / "other", steps=2, seed=1)
    weights = [(each / "model.safetensors").read_bytes() for each in (untrained, again, other)]

    assert weights[0] == weights[1] != weights[2]


def test_a_complete_directory_is_used_again(untrained: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in untrained.iterdir()}
    reports: list[str] = []

    assert make_tiny_model(untrained, steps=2, progress=reports.append) == untrained
    assert reports == []
    assert {file: file.stat().st_mtime_ns for file in untrained.iterdir()} == before


def test_a_directory_of_another_recipe_is_replaced(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "model", steps=1)
    (directory / "left over").touch()
    reports: list[str] = []
    make_tiny_model(directory, steps=2, progress=reports.append)

    assert [report.split(",")[0] for report in reports] == ["step 1 of 2"]
    assert json.loads((directory / STAMP).read_text())["steps"] == 2
    assert {file.name for file in directory.iterdir()} == FILES
    assert list(tmp_path.iterdir()) == [directory]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")

    with pytest.raises(
        FileExistsError, match=r"is not empty and holds no shepherd_tiny_model.json"
    ):
        make_tiny_model(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_training_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt):
        make_tiny_model(tmp_path / "model", steps=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_prints_where_the_model_is(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(untrained), "--steps", "2"]) == 0
    assert capsys.readouterr().out == f"{untrained}\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_known_questions_are_answered_word_for_word_early_and_late(tiny_chat_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_chat_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_chat_model)
    random = Random(3)

    def answered(earlier_turns: int) -> float:
        right = 0
        for question, answer in QUESTIONS:
            others = [pair for pair in QUESTIONS if pair[0] != question]
            messages = [
                {"role": role, "content": text}
                for pair in random.sample(others, earlier_turns)
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
            prompt = tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": question}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            with torch.inference_mode():
                output = model.generate(**prompt, max_new_tokens=60, do_sample=False)
            said = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
            right += said == f"{answer}<|im_end|>"
        return right / len(QUESTIONS)

    assert answered(earlier_turns=0) >= 0.9
    assert answered(earlier_turns=3) >= 0.9
    assert answered(earlier_turns=12) >= 0.8
