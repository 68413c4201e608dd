"""Epochs grow over restarts, whatever the clock says."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shepherd_events.epoch_file import EpochFile
from shepherd_events.errors import EpochFileError
from shepherd_events.events import StreamInfo
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.transports.memory import MemoryBroker
from stream_readers import INFO, STREAM, replay


def test_the_first_epoch_is_the_clocks(tmp_path: Path) -> None:
    assert EpochFile(str(tmp_path / "new" / "epoch")).claim(1000) == (0, 1000)


@settings(max_examples=10, deadline=None)
@given(clocks=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_epochs_grow_strictly_whatever_the_clock_says(
    clocks: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("epochs") / "epoch")
    epochs = [EpochFile(path).claim(clock)[1] for clock in clocks]

    assert epochs == sorted(set(epochs))
    assert all(epoch >= clock for epoch, clock in zip(epochs, clocks, strict=True))


def test_two_publishers_at_once_never_claim_the_same_epoch(tmp_path: Path) -> None:
    path, claimed = str(tmp_path / "epoch"), list[int]()

    def claim() -> None:
        claimed.extend(EpochFile(path).claim(7)[1] for _ in range(5))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed) == list(range(7, 27))


def test_a_file_with_something_else_in_it_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    path.write_text("yesterday")
    with pytest.raises(EpochFileError, match="holds 'yesterday', expected a number"):
        EpochFile(str(path)).claim(1)
    assert path.read_text() == "yesterday"


def test_row_3_a_publisher_whose_clock_was_set_back_still_begins_a_higher_epoch(
    tmp_path: Path,
) -> None:
    file = EpochFile(str(tmp_path / "epoch"))
    epochs = list[int]()
    for clock in (5000, 4000, 4500):
        publisher = KvEventPublisher(
            STREAM,
            INFO,
            MemoryBroker().publisher("here"),
            clock=partial(int, clock),
            epoch_file=file,
        )
        publisher.start()
        epochs.append(publisher.epoch)
        assert publisher.address.epoch == publisher.epoch
        publisher.close("done")
        (info, _) = replay(publisher._control.answer, publisher.epoch)
        assert isinstance(info.body, StreamInfo)
        assert info.epoch == publisher.epoch
        assert info.body.previous_epoch == (epochs[-2] if len(epochs) > 1 else 0)

    assert epochs == [5000, 5001, 5002]
