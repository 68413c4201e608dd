"""Which logits processors there are: names that the operator bound to factories.

    NAME                    the entry point of that name in the group `shepherd.logits_processors`
    NAME=module:factory     a callable, usually a class

A factory is called once per request, with the arguments that the request gives.
Where it has a parameter `tokenizer` that the request does not fill, it gets the
model's tokenizer, as transformers makes it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Final

from shepherd_worker.errors import InvalidRequestError, UnusableInputError
from shepherd_worker.logits_processing.protocol import LogitsProcessor
from shepherd_worker.request import ProcessorCall

GROUP: Final = "shepherd.logits_processors"
TEST_PROCESSOR: Final = "hello_world=dynamo.logits_processing.examples:HelloWorldLogitsProcessor"
"""Dynamo's own: answers "Hello world!" to everything."""

Factory = Callable[..., LogitsProcessor]


class ProcessorRegistry:
    """The factories of one worker."""

    def __init__(
        self,
        factories: Mapping[str, Factory] | None = None,
        *,
        always: Iterable[ProcessorCall] = (),
        tokenizer: Any = None,
    ) -> None:
        """`always` is applied to every request, first; `tokenizer` goes to the factories that want it."""
        self._factories = dict(factories or {})
        self._always = tuple(always)
        self._tokenizer = tokenizer

    def makers(self, calls: Iterable[ProcessorCall]) -> list[Callable[[], LogitsProcessor]]:
        """What makes the processors that a request asks for, in their order.

        Raises:
            InvalidRequestError: a name that the operator did not load, or arguments that do not fit.
        """
        return [self._maker(call) for call in (*self._always, *calls)]

    def _maker(self, call: ProcessorCall) -> Callable[[], LogitsProcessor]:
        factory = self._factories.get(call.name)
        if factory is None:
            known = ", ".join(sorted(self._factories)) or "none: this worker has loaded none"
            raise InvalidRequestError("logits_processor", call.name, known)
        arguments = dict(call.arguments)
        if wants_tokenizer(factory):
            arguments.setdefault("tokenizer", self._tokenizer)
        signature = inspect.signature(factory)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise InvalidRequestError(
                f"logits_processor:{call.name}",
                dict(call.arguments),
                f"arguments of {call.name}{signature}: {error}",
            ) from None
        return functools.partial(factory, **arguments)


def wants_tokenizer(factory: Factory) -> bool:
    """Whether a factory has a parameter of this name."""
    return "tokenizer" in inspect.signature(factory).parameters


def load_factories(specs: Iterable[str]) -> dict[str, Factory]:
    """Import what `--logits-processor` names.

    Raises:
        UnusableInputError: there is no such entry point, module or callable.
    """
    factories: dict[str, Factory] = {}
    for spec in specs:
        name, _, path = spec.partition("=")
        try:
            factory = _from_path(path) if path else _from_entry_point(name)
        except Exception as error:  # an import runs the operator's code, which may raise anything
            raise UnusableInputError(f"--logits-processor {spec}: {error}") from error
        if not callable(factory):
            raise UnusableInputError(f"--logits-processor {spec}: {factory!r} cannot be called")
        factories[name] = factory
    return factories


def _from_path(path: str) -> Any:
    module, _, attribute = path.partition(":")
    if not attribute:
        raise ValueError("expected NAME=module:factory")
    return attrgetter(attribute)(import_module(module))


def _from_entry_point(name: str) -> Any:
    found = entry_points(group=GROUP)
    for entry_point in found:
        if entry_point.name == name:
            return entry_point.load()
    known = ", ".join(sorted(found.names)) or "none"
    raise ValueError(f"no entry point of this name in the group {GROUP}; there are: {known}")
