"""What the gateway writes of a turn's number is what a worker reads; neither knows the other."""

from __future__ import annotations

from shepherd_gateway.context import numbered
from shepherd_worker.attribution import MAX_TURN, given_turn


def test_a_worker_reads_the_number_that_the_gateway_wrote() -> None:
    for number in (1, 12, MAX_TURN):
        body = numbered({"nvext": {"annotations": ["logits_processor:goat"]}}, number)

        assert given_turn(body["nvext"]["annotations"]) == number


def test_a_request_without_a_number_says_nothing() -> None:
    body = numbered({"nvext": {"annotations": ["logits_processor:goat"]}}, 0)

    assert given_turn(body["nvext"]["annotations"]) == 0
