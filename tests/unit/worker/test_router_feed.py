"""What Dynamo's KV router is told, and when no longer."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from shepherd_events.events import BlockHash, BlocksRemoved, BlocksStored
from shepherd_worker.registration import DynamoRouterFeed
from shepherd_worker.salts import Salts

STORED = BlocksStored(array("Q", [2**64 - 1]), BlockHash(2**63), array("I", [5, 6]), 1)
REMOVED = BlocksRemoved(array("Q", [7, 2**64 - 2]))


class Publisher:
    """As Dynamo's: it raises once it was shut down."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self._is_open = True

    def publish_stored(self, **event: Any) -> None:
        self._say((event["parent_hash"], event["block_hashes"], event["token_ids"]))

    def publish_removed(self, hashes: list[int]) -> None:
        self._say(hashes)

    def shutdown(self) -> None:
        self._is_open = False

    def _say(self, event: object) -> None:
        if not self._is_open:
            raise Exception("channel closed")  # noqa: TRY002 - as Dynamo does
        self.told.append(event)


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def feed(publisher: Any) -> DynamoRouterFeed:
    return DynamoRouterFeed(publisher, 2, Salts())


def test_hashes_are_told_as_signed_integers(feed: DynamoRouterFeed, publisher: Publisher) -> None:
    feed.stored(STORED)
    feed.removed(REMOVED)

    assert publisher.told == [(-(2**63), [-1], [5, 6]), [7, -2]]


def test_blocks_that_go_after_the_router_was_left_are_told_to_nobody(
    feed: DynamoRouterFeed, publisher: Publisher
) -> None:
    feed.close()
    feed.stored(STORED)
    feed.removed(REMOVED)

    assert publisher.told == []
