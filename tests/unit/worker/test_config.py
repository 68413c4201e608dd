"""The worker's own options: defaults by role, spellings of other launchers, early errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from shepherd_config import OptionError
from shepherd_worker.config import Role, WorkerConfig, load_config
from shepherd_worker.errors import UnusableInputError


def config(*argv: str, **environ: str) -> WorkerConfig:
    return load_config(["--model", "org/name", *argv], environ).config


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        ([], ("dynamo", "backend", "generate")),
        (["--role", "decode"], ("dynamo", "backend", "generate")),
        (["--role", "prefill"], ("dynamo", "prefill", "generate")),
        (["--role", "prefill", "--component", "p", "--namespace", "n"], ("n", "p", "generate")),
        (["--endpoint", "dyn://a.b.c"], ("a", "b", "c")),
    ],
)
def test_the_endpoint_follows_from_role_and_names(
    argv: list[str], path: tuple[str, str, str]
) -> None:
    assert config(*argv).endpoint_path == path


def test_launch_lines_of_other_workers_are_understood() -> None:
    theirs = load_config(
        ["--model-path", "org/name", "--disagg-mode", "agg", "--store-kv", "etcd",
         "--component-name", "c", "--tokenizer", "org/other", "--kv-block-size", "32",
         "--free-gpu-memory-fraction", "0.5"],
        {"DYN_NAMESPACE": "ns"},
    ).config  # fmt: skip

    assert theirs.role is Role.AGGREGATED
    assert (theirs.discovery_backend, theirs.component, theirs.namespace) == ("etcd", "c", "ns")
    assert (theirs.tokenizer, theirs.block_size) == ("org/other", 32)
    assert theirs.kv_cache_free_gpu_mem_fraction == 0.5
    assert load_config(["--engine-dir", "org/name"], {}).config.model == "org/name"


def test_a_directory_that_is_not_there_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    missing = str(tmp_path / "nothing")

    with pytest.raises(UnusableInputError, match=f"--model: there is no directory '{missing}'"):
        load_config(["--model", missing], {})


def test_a_wrong_role_from_dynamos_environment_is_refused_with_a_hint() -> None:
    with pytest.raises(OptionError, match=r"DYN_DISCOVERY_BACKEND: .etdc. .* did you mean .etcd."):
        config(DYN_DISCOVERY_BACKEND="etdc")


def test_an_endpoint_of_two_parts_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--endpoint: 'a\.b' is not valid"):
        config("--endpoint", "a.b")


def test_every_engine_option_reaches_the_engine() -> None:
    built = config(
        "--num-kv-blocks", "7", "--max-seq-len", "99", "--max-waiting", "3"
    ).engine_config()

    assert (built.model, built.num_kv_blocks, built.max_seq_len, built.max_waiting) == (
        *("org/name", 7),
        *(99, 3),
    )


def test_the_cache_options_reach_the_engine() -> None:
    chosen = config("--host-cache-size", "1048576", "--system-prompt-retention-s", "none")

    assert chosen.engine_config().host_cache_size == 1 << 20
    assert chosen.engine_config().eviction_policy == "lru"
    assert chosen.system_prompt_retention_s is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lur", "'lur' is neither lru nor MODULE:FACTORY"),
        ("no_such_module:Policy", "No module named 'no_such_module'"),
        ("collections:NoSuchPolicy", "no attribute 'NoSuchPolicy'"),
        ("collections:OrderedDict", "makes nothing with the methods add, remove and pop"),
        ("sys:version", "makes nothing with the methods add, remove and pop"),
    ],
)
def test_an_eviction_policy_that_cannot_be_had_is_refused_before_the_model_loads(
    name: str, reason: str
) -> None:
    with pytest.raises(OptionError, match=f"--eviction-policy: '{name}' .*{reason}"):
        config("--eviction-policy", name)


def test_an_eviction_policy_of_one_s_own_is_loaded_by_its_name() -> None:
    name = "shepherd_worker.engine.embedded.cache.eviction:PriorityLru"

    assert config("--eviction-policy", name).engine_config().eviction_policy == name


def test_speculation_and_processors_reach_the_engine() -> None:
    chosen = config(
        *("--speculative", "NGram", "--max-matching-ngram-size", "2", "--max-draft-len", "5"),
        *("--logits-processor", "a=m:A", "--logits-processor", "b,c=m:C"),
        "--logits-processor-timeout-s=0.5",
        DYN_ENABLE_TEST_LOGITS_PROCESSOR="1",
    ).engine_config()

    assert (chosen.speculative, chosen.speculative_window, chosen.speculative_max_draft) == (
        "ngram",
        2,
        5,
    )
    assert chosen.logits_processors == ("a=m:A", "b", "c=m:C")
    assert chosen.logits_processor_timeout_s == 0.5
    assert chosen.test_logits_processor


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--speculative", "eagle"], ["--speculative", "eagle", "none, ngram"]),
        (["--speculative-window", "0"], ["--speculative-window", "'0'", ">= 1"]),
        (["--speculative-max-draft", "65"], ["--speculative-max-draft", "'65'", "<= 64"]),
        (["--logits-processor-timeout-s", "0"], ["--logits-processor-timeout-s", "'0'"]),
    ],
)
def test_a_wrong_option_of_speculation_is_told_with_what_is_allowed(
    argv: list[str], words: list[str]
) -> None:
    with pytest.raises(OptionError) as told:
        config(*argv)

    assert all(word in str(told.value) for word in words)


def secret_file(directory: Path, mode: int = 0o600) -> str:
    file = directory / "secret"
    file.write_text("0123456789abcdef0123456789abcdef")
    file.chmod(mode)
    return str(file)


def test_kv_leaves_the_machine_with_a_secret_only(tmp_path: Path) -> None:
    file = secret_file(tmp_path)
    chosen = config(
        *("--transfer-host", "192.0.2.7", "--transfer-secret-file", file, "--kv-transfer", "tcp")
    ).engine_config()

    assert (chosen.transfer_host, chosen.transfer_secret_file) == ("192.0.2.7", file)
    assert chosen.kv_transfer == "tcp"
    with pytest.raises(OptionError, match=r"'192\.0\.2\.7' .*--transfer-secret-file"):
        config("--transfer-host", "192.0.2.7")
    with pytest.raises(OptionError, match="can fetch from"):
        config("--transfer-host", "0.0.0.0", "--transfer-secret-file", file)
    with pytest.raises(UnusableInputError, match="mode 644"):
        config("--transfer-secret-file", secret_file(tmp_path, 0o644))
    assert config("--transfer-host", "::1").engine_config().kv_transfer == "auto"


def test_the_parsers_have_dynamo_s_names_and_variables() -> None:
    named = config("--dyn-tool-call-parser", "hermes", DYN_REASONING_PARSER="qwen3")

    assert (named.dyn_tool_call_parser, named.dyn_reasoning_parser) == ("hermes", "qwen3")
    assert (config().dyn_tool_call_parser, config().dyn_reasoning_parser) == ("", "")


@pytest.mark.parametrize(
    ("flag", "allowed"), [("--dyn-tool-call-parser", "hermes"), ("--dyn-reasoning-parser", "qwen3")]
)
def test_a_parser_that_dynamo_does_not_have_is_refused_with_those_it_has(
    flag: str, allowed: str
) -> None:
    with pytest.raises(OptionError, match=f"{flag}: 'hermse' is not valid: .*{allowed}"):
        config(flag, "hermse")
