"""The KV connector's base classes, made from the facts."""

from __future__ import annotations

import abc
import json
from typing import Any

from trtllm_backend.schema import dataclass_of
from trtllm_backend.variants import FACTS


def _abstract(name: str) -> Any:
    facts = json.loads(FACTS.read_text())["classes"][name]["methods"]

    def method(each: str, abstract: bool) -> Any:
        def call(self: Any, *args: Any) -> Any:
            raise NotImplementedError

        call.__name__ = each
        return abc.abstractmethod(call) if abstract else call

    members = {each: method(each, fact.get("abstract", False)) for each, fact in facts.items()}
    members["__init__"] = lambda self, llm_args: setattr(self, "_llm_args", llm_args)
    return abc.ABCMeta(name, (), members)


KvCacheConnectorScheduler = _abstract("KvCacheConnectorScheduler")
KvCacheConnectorWorker = _abstract("KvCacheConnectorWorker")
SchedulerOutput = dataclass_of("SchedulerOutput", __name__)
RequestData = dataclass_of("RequestData", __name__)

__all__ = ["KvCacheConnectorScheduler", "KvCacheConnectorWorker", "RequestData", "SchedulerOutput"]
