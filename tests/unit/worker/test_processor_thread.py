"""Where logits processors run, and that nothing they do harms the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait

import pytest
import torch
from torch import Tensor

from shepherd_worker.errors import InvalidRequestError, ProcessorError
from shepherd_worker.logits_processing import LogitsProcessor
from shepherd_worker.logits_processing.processor_thread import ProcessorThread
from shepherd_worker.logits_processing.registry import ProcessorRegistry, load_factories
from shepherd_worker.request import ProcessorCall


class Add:
    """Adds a number, and notes in which threads."""

    threads: set[str] = set()  # noqa: RUF012 - what all instances saw

    def __init__(self, number: float) -> None:
        self._number = number

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        Add.threads.add(threading.current_thread().name)
        logits += self._number * len(input_ids)


def refuse() -> LogitsProcessor:
    raise ValueError("number must be even")


async def test_processors_are_made_and_called_in_the_request_s_own_thread() -> None:
    thread = ProcessorThread([lambda: Add(1), lambda: Add(10)], timeout_s=5, name="r7")
    await thread.open()
    with torch.inference_mode():
        first = thread.begin([4, 5], torch.zeros(3))
        second = thread.begin([4, 5, 6], torch.zeros(3))
    wait([first, second], 5)
    thread.close()

    assert first.result().tolist() == [22.0] * 3
    assert second.result().tolist() == [33.0] * 3
    assert Add.threads == {"shepherd-processors-r7"}


async def test_a_closed_thread_ends_and_changes_nothing_any_more() -> None:
    thread = ProcessorThread([lambda: Add(1)], timeout_s=5, name="r8")
    await thread.open()
    thread.close()
    thread.close()
    thread._thread.join(5)

    assert not thread._thread.is_alive()
    assert thread.begin([1], torch.zeros(1)).result(0).tolist() == [0.0]


async def test_a_processor_that_takes_long_to_make_is_not_waited_for() -> None:
    release = threading.Event()

    def make_slowly() -> LogitsProcessor:
        release.wait(30)
        return Add(1)

    thread = ProcessorThread([make_slowly], timeout_s=0.02, name="r9")
    with pytest.raises(ProcessorError, match=r"not made within 0\.02 s"):
        await thread.open()
    thread.close()
    release.set()
    thread._thread.join(5)

    assert not thread._thread.is_alive()


async def test_a_processor_that_refuses_its_arguments_is_the_client_s_fault() -> None:
    thread = ProcessorThread([refuse], timeout_s=5, name="r10")
    with pytest.raises(InvalidRequestError, match="number must be even"):
        await thread.open()
    thread.close()


def test_every_request_gets_processors_of_its_own() -> None:
    registry = ProcessorRegistry({"add": Add})
    (maker,) = registry.makers([ProcessorCall("add", {"number": 2})])

    assert maker() is not maker()
    assert isinstance(maker(), LogitsProcessor)


def test_what_is_always_applied_comes_first() -> None:
    registry = ProcessorRegistry({"add": Add}, always=[ProcessorCall("add", {"number": 1})])
    row = torch.zeros(1)
    for maker in registry.makers([ProcessorCall("add", {"number": 2})]):
        maker()([1], row)

    assert row.tolist() == [3.0]
    assert len(registry.makers([])) == 1


def test_a_factory_is_found_by_path_and_nested_attribute() -> None:
    factories = load_factories([f"add={__name__}:Add", "twice=functools:partial.__call__"])

    assert factories["add"] is not None
    assert list(factories) == ["add", "twice"]
