"""Options become the arguments of `LLM`, and nothing reaches it that it does not know."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from engine_calls import config
from shepherd_config import OptionError
from shepherd_worker.config import load_config
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.trtllm.construction import engine_arguments
from shepherd_worker.engine.trtllm.library import Library, load_library, set_log_level
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.errors import UnreachableError, UnusableInputError
from trtllm_fake import VERSIONS, no_trtllm, use_fake_trtllm


def library(version: str = "1.3.0rc20", **kinds: bool) -> Library:
    use_fake_trtllm(version)
    return load_library(**kinds)


def arguments(version: str = "1.3.0rc20", /, **options: Any) -> dict[str, Any]:
    """What `LLM` is called with when these options are given to the worker's engine."""
    shared = {name: options.pop(name) for name in EngineConfig.__slots__ if name in options}
    limits = config(model="org/model", trtllm=TrtllmOptions(**options), **shared)
    return engine_arguments(limits, library(version))


@pytest.mark.parametrize("version", VERSIONS)
def test_llm_takes_everything_that_options_can_ask_for(version: str, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    made = arguments(
        version,
        disaggregated=True,
        speculative="ngram",
        kv_connector="kvbm",
        host_cache_size=1 << 20,
        tensor_parallel_size=2,
        pipeline_parallel_size=2,
        expert_parallel_size=2,
        enable_attention_dp=True,
        conversation_affinity=True,
        gpus_per_node=4,
        max_beam_width=2,
        lora_directory=str(tmp_path),
        trust_remote_code=True,
        load_format="dummy",
    )
    known = load_library().llm_arguments

    assert made.keys() <= known
    assert made["cache_transceiver_config"] == {
        "backend": "DEFAULT",
        "kv_transfer_timeout_ms": 60_000,
    }
    assert made["speculative_config"]["max_draft_len"] == 8
    assert made["kv_connector_config"]["connector_worker_class"] == "DynamoKVBMConnectorWorker"
    assert ("attention_dp_config" in made) == (version == "1.3.0rc26")
    assert made["kv_cache_config"].host_cache_size == 1 << 20
    assert made["kv_cache_config"].enable_partial_reuse is False
    assert made["kv_cache_config"].event_buffer_max_size == 100_000
    assert made["lora_config"] == {"lora_dir": [str(tmp_path / "adapter")]}


def test_what_no_option_asks_for_is_left_to_tensorrt_llm() -> None:
    made = arguments()

    for name in (
        "pipeline_parallel_size",
        "cache_transceiver_config",
        "speculative_config",
        "tokenizer",
    ):
        assert name not in made
    assert made["telemetry_config"] == {"disabled": True}
    assert made["max_batch_size"] == 32


def test_the_file_wins_over_options_and_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "extra.yaml"
    file.write_text(
        "max_batch_size: 7\nmax_num_tokens: 70\n"
        "kv_cache_config:\n  host_cache_size: 5\n  copy_on_partial_reuse: false\n"
    )
    overrides = {"max_num_tokens": 99, "kv_cache_config": {"host_cache_size": 6}}
    made = arguments(
        extra_engine_args=str(file), override_engine_args=json.dumps(overrides), num_kv_blocks=10
    )
    kv = made["kv_cache_config"]

    assert (made["max_batch_size"], made["max_num_tokens"]) == (7, 99)
    assert (kv.host_cache_size, kv.copy_on_partial_reuse, kv.max_tokens) == (6, False, 40)
    assert kv.event_buffer_max_size == 100_000


def test_names_that_this_version_lacks_are_dropped_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    overrides = {
        "num_serve_frontends": 2,
        "no_such_thing": 1,
        "kv_cache_config": {"fp8_context_mla_kv_len_cap": 3},
    }
    with caplog.at_level(logging.WARNING):
        made = arguments("1.3.0rc20", override_engine_args=json.dumps(overrides))

    assert not {"num_serve_frontends", "no_such_thing"} & made.keys()
    assert "no no_such_thing, num_serve_frontends for LLM: dropped" in caplog.text
    assert "no fp8_context_mla_kv_len_cap for kv_cache_config: dropped" in caplog.text
    assert (
        arguments("1.3.0rc26", override_engine_args=json.dumps(overrides))["num_serve_frontends"]
        == 2
    )


def test_autodeploy_has_one_number_for_all_parallelism() -> None:
    limits = config(
        model="m", tensor_parallel_size=4, trtllm=TrtllmOptions(trtllm_backend="autodeploy")
    )
    made = engine_arguments(limits, library(autodeploy=True))

    assert made["world_size"] == 4
    assert "tensor_parallel_size" not in made


@pytest.mark.parametrize(
    ("text", "words"), [("{", "expected JSON"), ("[1]", "a JSON object"), ("1", "a JSON object")]
)
def test_overrides_that_are_no_object_are_refused_before_anything_is_loaded(
    text: str, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        load_config(["--model", "org/name", "--override-engine-args", text], {})


def test_a_file_that_is_not_there_or_not_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnusableInputError, match="--extra-engine-args: there is no"):
        load_config(["--model", "org/name", "--extra-engine-args", "/nothing.yaml"], {})
    broken = tmp_path / "broken.yaml"
    broken.write_text("kv_cache_config: [")
    with pytest.raises(UnusableInputError, match=r"--extra-engine-args .*broken\.yaml"):
        arguments(extra_engine_args=str(broken))


def test_presets_of_connectors_are_those_of_the_facts() -> None:
    facts = Path(__file__).parents[2] / "golden" / "trtllm_api.json"
    presets = json.loads(facts.read_text())["classes"]["KvCacheConnectorConfig"]["presets"]
    for name, parts in presets.items():
        assert list(arguments(kv_connector=name)["kv_connector_config"].values()) == parts


def test_a_connector_is_a_preset_or_three_names() -> None:
    named = arguments(kv_connector="my.module:Leader:Worker")["kv_connector_config"]

    assert named == {
        "connector_module": "my.module",
        "connector_scheduler_class": "Leader",
        "connector_worker_class": "Worker",
    }
    with pytest.raises(UnusableInputError, match="--kv-connector 'disk:/x'"):
        arguments(kv_connector="disk:/x")


def test_without_the_wheel_the_error_says_what_to_do() -> None:
    with (
        no_trtllm(),
        pytest.raises(UnreachableError, match=r"pip install 'shepherd-worker\[trtllm\]'"),
    ):
        create_engine("trtllm", config())


def test_sizes_follow_the_engine_unless_they_are_given() -> None:
    def sizes(*argv: str) -> tuple[int, int, int]:
        made = load_config(["--model", "org/name", *argv], {}).config.engine_config()
        return made.block_size, made.max_batch_size, made.max_num_tokens

    assert sizes("--engine", "torch") == (16, 32, 512)
    assert sizes("--engine", "trtllm") == (32, 256, 8192)
    assert sizes("--engine", "trtllm", "--max-batch-size", "8") == (32, 8, 8192)


def test_tensorrt_llm_is_the_engine_where_it_is_installed() -> None:
    def chosen(*argv: str) -> str:
        return load_config(["--model", "org/name", *argv], {}).config.chosen_engine

    use_fake_trtllm()
    assert (chosen(), chosen("--role", "prefill")) == ("trtllm", "trtllm")
    assert (chosen("--role", "encode"), chosen("--engine", "torch")) == ("torch", "torch")
    with no_trtllm():
        assert chosen() == "torch"


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, "info"),
        ({"DYN_LOG": "debug"}, "debug"),
        ({"DYN_LOG": "warn,dynamo_llm=debug"}, "warning"),
        ({"DYN_LOG": "dynamo_llm=debug"}, "info"),
        ({"DYN_LOG": "debug", "TLLM_LOG_LEVEL": "error"}, "error"),
        ({"DYN_LOG": "debug", "DYN_SKIP_TRTLLM_LOG_FORMATTING": "1"}, None),
    ],
)
def test_tensorrt_llm_logs_as_much_as_dynamo(environ: dict[str, str], level: str | None) -> None:
    set_log_level(environ)

    assert environ.get("TLLM_LOG_LEVEL") == level
