"""TensorRT-LLM's disaggregated parameters as JSON values, and back.

They go from a prefill worker through Dynamo's frontend to a decode worker that
may run another release candidate: what the receiver does not know is dropped
and named, what does not fit into JSON (tensors) is not sent.  `opaque_state`
are bytes of TensorRT-LLM's own, carried as base64; nobody here looks inside.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import inspect
import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from shepherd_worker.engine.trtllm.library import Library, fields_of, known_only

log = logging.getLogger(__name__)

_FINGERPRINT = "model_fingerprint"
"""Ours, beside TensorRT-LLM's fields: only equal models, types and layouts exchange KV."""
PROMPT = "prompt_token_ids"
"""Ours, for a prompt with images."""
_NOT_FOR_DECODE = frozenset({"request_type", "multimodal_embedding_handles", "schedule_style"})


class HandoffError(Exception):
    """The other side's parameters cannot be used; the prompt is computed instead."""


class RequestIds:
    """Ids that no other prefill worker gives; both sides know a transfer by its id."""

    def __init__(self, library: Library) -> None:
        self._make = library.disagg_request_id
        self._arguments: dict[str, int] = {}
        if self._make is not None:
            names = inspect.signature(self._make).parameters
            by_node = "node_id" in names
            self._arguments = (
                {"node_id": secrets.randbelow(256), "process_id": secrets.randbelow(64)}
                if by_node
                else {next(iter(names)): secrets.randbelow(1021)}
            )

    def next(self) -> int | None:
        """None where this version numbers transfers by itself."""
        return None if self._make is None else self._make(**self._arguments)


def context_only(library: Library, request_id: int | None) -> Any:
    """The parameters of a prompt that another worker answers."""
    wanted = {"request_type": "context_only"}
    fields = fields_of(library.DisaggregatedParams)
    numbered = {"disagg_request_id": request_id} if "disagg_request_id" in fields else {}
    return library.DisaggregatedParams(**wanted, **numbered)


def both_phases(library: Library) -> Any:
    """The parameters of a request that a worker of either role serves alone, such as a probe."""
    return library.DisaggregatedParams(request_type="context_and_generation")


def to_wire(result: Any, model_fingerprint: bytes, *, has_images: bool = False) -> dict[str, Any]:
    """What a finished context-only result says to the decode worker, as JSON values.

    A prompt with images goes along as the engine expanded it, with tokens of its own for them.
    """
    params = result.outputs[0].disaggregated_params or result.disaggregated_params
    wire: dict[str, Any] = {_FINGERPRINT: model_fingerprint.hex()}
    if has_images:
        wire[PROMPT] = list(result.prompt_token_ids)
    for field in () if params is None else dataclasses.fields(params):
        value = getattr(params, field.name)
        if value is None or field.name in _NOT_FOR_DECODE:
            continue
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        elif field.name == "first_gen_log_probs":
            value = [_logprobs_to_wire(entry) for entry in value]
        if _fits_json(value):
            wire[field.name] = value
        else:
            log.debug("%s does not travel to the decode worker", field.name)
    return wire


def from_wire(library: Library, wire: Mapping[str, Any], model_fingerprint: bytes) -> Any:
    """The parameters of an answer whose prompt another worker computed.

    Raises:
        HandoffError: a field is missing or has the wrong form, or it is another model's.
    """
    if wire.get(_FINGERPRINT) != model_fingerprint.hex():
        raise HandoffError("the other side serves another model, type or block size")
    theirs = {name: value for name, value in wire.items() if name not in {_FINGERPRINT, PROMPT}}
    known = known_only(theirs, fields_of(library.DisaggregatedParams), "DisaggregatedParams")
    known = {name: value for name, value in known.items() if name not in _NOT_FOR_DECODE}
    try:
        known["opaque_state"] = base64.b64decode(known["opaque_state"], validate=True)
        if "first_gen_log_probs" in known:
            known["first_gen_log_probs"] = [
                _logprobs_from_wire(library, entry) for entry in known["first_gen_log_probs"]
            ]
        return library.DisaggregatedParams(request_type="generation_only", **known)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise HandoffError(f"not the parameters of a prefill worker: {error!r}") from error


def _logprobs_to_wire(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return [
        {"token_id": token_id, "logprob": value.logprob, "rank": value.rank}
        for token_id, value in entry.items()
    ]


def _logprobs_from_wire(library: Library, entry: Any) -> Any:
    """The executor reads attributes, so plain dictionaries will not do."""
    if not isinstance(entry, list):
        return entry
    kind = library.Logprob
    return {each["token_id"]: kind(each["logprob"], each["rank"]) for each in entry}


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
