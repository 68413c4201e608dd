"""The fake TensorRT-LLM has the names that the real one has, and no others."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trtllm_fake import VERSIONS, use_fake_trtllm

FACTS = json.loads((Path(__file__).parents[2] / "golden" / "trtllm_api.json").read_text())
NOT_FAKED = {"TensorRTEngineLLM", "GuidedDecodingParams", "BaseLlmArgs", "MultimodalEncoder"}
"""Removed from 1.3, or checked by what is made of them."""

OLDER_RESULTS = {"set_timeout", "get_results"}
"""Of the iterator that events and statistics come from; the adapter has no use for them."""
NEWER_METRICS = {"log_request_metrics_dict", "log_iteration_stats", "log_config_info"}
LACKS: dict[str, dict[str, set[str]]] = {
    "1.2.0": {"LLM": {"get_kv_cache_capacity"}, "MetricsCollector": NEWER_METRICS},
    "1.3.0rc20": {"MetricsCollector": {"log_metrics_dict"}},
    "1.3.0rc26": {"MetricsCollector": {"log_metrics_dict"}},
}
"""Methods that came or went with a version."""


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    use_fake_trtllm(request.param)
    chosen: str = request.param
    return chosen


def module_of(entry: dict[str, Any]) -> Any:
    return importlib.import_module(entry["module"].split(" ")[0])


def classes() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in FACTS["classes"].items():
        if name not in NOT_FAKED and entry.get("module", "").startswith("tensorrt_llm"):
            yield name, entry


def known_fields(entry: dict[str, Any]) -> set[str]:
    keys = ("fields", "init_kwargs", "init_kwargs_extra", "legacy_fields")
    return {name for key in keys for name in entry.get(key, {})}


def names_of(kind: Any) -> set[str]:
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    if hasattr(kind, "model_fields"):
        return set(kind.model_fields)
    return set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs", "buckets"}


def test_every_class_is_where_the_facts_say_with_fields_that_exist(version: str) -> None:
    for name, entry in classes():
        since = str(entry.get("since", ""))
        kind = getattr(module_of(entry), entry.get("name", name), None)
        if kind is None:
            assert since.startswith((">rc20", "later")), name
            assert version != "1.3.0rc26", name
            continue
        known = known_fields(entry)
        if known:
            assert names_of(kind) <= known | FACTS["classes"]["LLM"]["init_kwargs"].keys(), name
        lacks = {each for each in entry.get("methods", ()) if not hasattr(kind, each)}
        assert lacks <= LACKS[version].get(name, set()) | OLDER_RESULTS, name


def test_methods_take_the_facts_parameters_in_their_order(version: str) -> None:
    llm = importlib.import_module("tensorrt_llm").LLM
    for method, known in FACTS["classes"]["LLM"]["methods"].items():
        if not hasattr(llm, method):
            assert (method, version) == ("get_kv_cache_capacity", "1.2.0")
            continue
        parameters = [p for p in inspect.signature(getattr(llm, method)).parameters if p != "self"]
        assert parameters == [name for name in known if name in parameters], method

    taken = inspect.signature(llm.generate_async).parameters
    assert ("priority" in taken, "conversation_params" in taken, "cache_salt" in taken) == {
        "1.2.0": (False, False, True),
        "1.3.0rc20": (True, False, True),
        "1.3.0rc26": (True, True, True),
    }[version]


def test_what_moved_or_went_between_versions_did_so_in_the_fake(version: str) -> None:
    base = "tensorrt_llm._torch.pyexecutor"
    old, new = f"{base}.kv_cache_connector", f"{base}.connectors.kv_cache_connector"
    here, gone = (old, new) if version == "1.2.0" else (new, old)
    ids = importlib.import_module("tensorrt_llm.llmapi.disagg_utils")

    assert importlib.import_module(here).KvCacheConnectorScheduler
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(gone)
    assert hasattr(importlib.import_module("tensorrt_llm.llmapi"), "BuildConfig") == (
        version != "1.3.0rc26"
    )
    names = list(inspect.signature(ids.get_global_disagg_request_id).parameters)
    assert names == (["node_id", "process_id"] if version == "1.3.0rc26" else ["machine_id"])
    assert ids.get_global_disagg_request_id(1) >= 2**40


def test_a_name_that_does_not_exist_is_refused(version: str) -> None:
    package = importlib.import_module("tensorrt_llm")
    api = importlib.import_module("tensorrt_llm.llmapi")

    with pytest.raises(ValueError, match="got invalid argument: tensor_paralel_size"):
        package.LLM(model="m", tensor_paralel_size=2)
    with pytest.raises(ValueError, match="free_gpu_mem_fraction"):
        api.KvCacheConfig(free_gpu_mem_fraction=0.5)
    with pytest.raises(TypeError):
        package.SamplingParams(max_token=1)


def test_the_traps_of_sampling_are_there(version: str) -> None:
    params = importlib.import_module("tensorrt_llm").SamplingParams

    assert params().max_tokens == 32
    with pytest.raises(ValueError, match="top_k"):
        params(top_k=-1)
    with pytest.raises(ValueError, match="multiple returns"):
        params(n=2)
    with pytest.raises(ValueError, match="max_draft_len"):
        importlib.import_module("tensorrt_llm.llmapi").NGramDecodingConfig()


def test_the_adapter_looks_for_no_name_that_the_facts_do_not_have() -> None:
    """Every name is found in one file, by calls that say name and modules."""
    adapter = importlib.import_module("shepherd_worker.engine.trtllm.library")
    calls = [
        [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        for node in ast.walk(ast.parse(inspect.getsource(adapter)))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_find"
    ]
    modules = {entry.get("module", "").split(" ")[0] for entry in FACTS["classes"].values()}
    modules |= {entry["module"] for entry in FACTS["functions"].values()}
    modules |= {entry["module"] for entry in FACTS["errors"].values() if "module" in entry}
    known = FACTS["classes"].keys() | FACTS["functions"].keys() | FACTS["errors"].keys()
    for module, names in FACTS["imports_used_by_dynamo_1_4_2"].items():
        modules.add(module)
        known |= {name.partition(" ")[0] for name in names}

    assert len(calls) >= 10
    for name, *where in (call for call in calls if call):
        assert name in known | {"LlmArgs", "TorchLlmArgs", "TrtLlmArgs"}, name
        assert set(where) <= modules, name
