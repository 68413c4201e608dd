"""Salts behind their ids, for readers that hash with them."""

from __future__ import annotations

from shepherd_events.block_hash import salt_id
from shepherd_worker.salts import MAX_SALTS, Salts


def test_a_salt_that_came_is_known_by_its_id() -> None:
    salts = Salts()
    salts.learn("blue")
    salts.learn("")

    assert salts.get(salt_id("blue")) == "blue"
    assert salts.get(salt_id("green")) is None
    assert salts.get(b"") is None


def test_the_oldest_salt_is_forgotten_first() -> None:
    salts = Salts()
    for number in range(MAX_SALTS + 1):
        salts.learn(str(number))

    assert salts.get(salt_id("0")) is None
    assert salts.get(salt_id("1")) == "1"


def test_a_salt_that_comes_again_pushes_no_other_out() -> None:
    salts = Salts()
    for number in range(MAX_SALTS):
        salts.learn(str(number))
    salts.learn("5")

    assert salts.get(salt_id("0")) == "0"
