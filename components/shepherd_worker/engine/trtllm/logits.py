"""Our logits processors, called by TensorRT-LLM in the process and stream that it samples in.

The object travels to that process, so it carries the names of factories and not
processors; those are made there, at the first token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shepherd_worker.engine.trtllm.library import Library
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.logits_processing.protocol import LogitsProcessor
from shepherd_worker.logits_processing.registry import (
    TEST_PROCESSOR,
    ProcessorRegistry,
    load_factories,
    wants_tokenizer,
)
from shepherd_worker.request import ProcessorCall


@dataclass(slots=True)
class RequestProcessors:
    """One request's processors in order; the logits are [1, 1, vocab_size]: one beam."""

    specs: tuple[str, ...]
    """As the operator named them; see `registry.load_factories`."""
    calls: tuple[ProcessorCall, ...]
    tokenizer_directory: str
    """For factories that want a tokenizer."""
    _made: list[LogitsProcessor] | None = field(default=None, init=False)

    def __call__(
        self,
        req_id: int,
        logits: Any,
        token_ids: Sequence[Sequence[int]],
        stream_ptr: int | None,
        client_id: int | None,
    ) -> None:
        """Source: `LogitsProcessor.__call__` of TensorRT-LLM's sampling parameters."""
        del req_id, client_id
        if tuple(logits.shape[:2]) != (1, 1):
            raise ValueError(f"logits of shape {tuple(logits.shape)}: expected [1, 1, vocab_size]")
        if self._made is None:
            self._made = self._make()
        with _on_stream(stream_ptr):
            for processor in self._made:
                processor(token_ids[0], logits[0, 0])

    def _make(self) -> list[LogitsProcessor]:
        factories, tokenizer = load_factories(self.specs), None
        if any(wants_tokenizer(factories[call.name]) for call in self.calls):
            from transformers import AutoTokenizer  # noqa: PLC0415 - comes with TensorRT-LLM

            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_directory)
        registry = ProcessorRegistry(factories, tokenizer=tokenizer)
        return [make() for make in registry.makers(self.calls)]


class ProcessorDoor:
    """Checks a request's processors before it is submitted."""

    def __init__(
        self, library: Library, specs: tuple[str, ...], tokenizer_directory: str, *, test: bool
    ) -> None:
        """`test` answers every request with Dynamo's own example."""
        self._base = library.LogitsProcessor
        if self._base is not None:
            self._base.register(RequestProcessors)
        self._tokenizer_directory = tokenizer_directory
        self._specs = (*specs, TEST_PROCESSOR) if test else specs
        self._always = (ProcessorCall(TEST_PROCESSOR.partition("=")[0]),) if test else ()
        self._registry = ProcessorRegistry(load_factories(self._specs))

    def processor(self, calls: tuple[ProcessorCall, ...]) -> Any:
        """What TensorRT-LLM calls for a request; None for a request without processors.

        Raises:
            InvalidRequestError: a name that the operator did not load, or wrong arguments.
        """
        wanted = (*self._always, *calls)
        if not wanted:
            return None
        if self._base is None:
            raise InvalidRequestError(
                "logits_processor", calls[0].name, "none: this TensorRT-LLM has no such hook"
            )
        self._registry.makers(wanted)
        return RequestProcessors(self._specs, wanted, self._tokenizer_directory)


def _on_stream(stream_ptr: int | None) -> contextlib.AbstractContextManager[Any]:
    if not stream_ptr:
        return contextlib.nullcontext()
    import torch  # noqa: PLC0415 - only where there are logits

    return torch.cuda.stream(torch.cuda.ExternalStream(stream_ptr))  # type: ignore[no-untyped-call]
