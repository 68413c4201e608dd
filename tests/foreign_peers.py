"""The real code of other systems' KV event publishers, where it can be had.

`python scripts/fetch_peers.py` takes single files out of their wheels into
`build/peers`; what they import beside msgspec and zmq is stood in for here.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

PEERS = Path(__file__).parent.parent / "build" / "peers"
_HOW = "run `python scripts/fetch_peers.py` (downloads wheels of 170 MB)"


class _Anything(types.ModuleType):
    """A module whose every name is a class that takes anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **options: vars(self).update(options)})


def vllm() -> Any:
    """vLLM's `kv_events`."""
    logger = types.ModuleType("vllm.logger")
    logger.init_logger = lambda _: __import__("logging").getLogger("vllm")  # type: ignore[attr-defined]
    network = types.ModuleType("vllm.utils.network_utils")
    network.get_ip = lambda: "127.0.0.1"  # type: ignore[attr-defined]
    network.get_tcp_uri = lambda ip, port: f"tcp://{ip}:{port}"  # type: ignore[attr-defined]
    network.is_valid_ipv6_address = lambda _: False  # type: ignore[attr-defined]
    network.split_zmq_path = lambda path: path.replace("://", ":", 1).rsplit(":", 2)  # type: ignore[attr-defined]
    hashes = types.ModuleType("vllm.v1.core.kv_cache_utils")
    hashes.ExternalBlockHash = bytes | int  # type: ignore[attr-defined]
    stubs = {
        "vllm.config.kv_events": _Anything("vllm.config.kv_events"),
        "vllm.logger": logger,
        "vllm.utils.network_utils": network,
        "vllm.v1.core.kv_cache_utils": hashes,
    }
    return _load("vllm_kv_events", stubs)


def sglang() -> Any:
    """SGLang's `kv_events`."""
    network = types.ModuleType("sglang.srt.utils.network")
    network.NetworkAddress = type("NetworkAddress", (), {"parse": staticmethod(_address)})  # type: ignore[attr-defined]
    stubs = {
        "sglang.srt.runtime_context": _Anything("sglang.srt.runtime_context"),
        "sglang.srt.utils.network": network,
    }
    return _load("sglang_kv_events", stubs)


def dynamo_trtllm() -> Any:
    """The publisher of Dynamo's TensorRT-LLM worker, which is installed with Dynamo."""
    return pytest.importorskip("dynamo.trtllm.publisher")


def _address(text: str) -> Any:
    host, _, port = text.rpartition(":")
    return types.SimpleNamespace(host=host, port=int(port), is_ipv6=False)


def _load(name: str, stubs: dict[str, types.ModuleType]) -> Any:
    path = PEERS / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{path.name} is not here: {_HOW}")
    packages = {
        ".".join(stub.split(".")[:depth])
        for stub in stubs
        for depth in range(1, stub.count(".") + 1)
    }
    before = {key: sys.modules.get(key) for key in {*packages, *stubs}}
    sys.modules.update({key: types.ModuleType(key) for key in packages} | stubs)
    try:
        spec = importlib.util.spec_from_file_location(f"peers.{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        for key, value in before.items():
            if value is None:
                sys.modules.pop(key, None)
            else:
                sys.modules[key] = value
