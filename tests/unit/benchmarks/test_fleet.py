"""What a fleet asks for is arithmetic, and how hashing spreads it the same in every run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.fleet.costs import Costs
from benchmarks.fleet.demand import GIB, Fleet, loads, stream_bytes_s, usd_per_million_turns
from benchmarks.fleet.shards import backlog, sessions_by_tenant, shares, spread

COSTS = Costs(
    stored_block_bytes=90.0,
    removed_block_bytes=10.0,
    turn_bytes=200.0,
    encode_block_s=1e-6,
    decode_block_s=1e-6,
    index_block_s=2e-6,
    index_block_bytes=256.0,
    archive_turn_s=1e-3,
    archive_turn_bytes=GIB / 1e6,
)
FLEET = Fleet(
    workers=10,
    blocks=2**30,
    new_tokens_per_worker_s=1_600.0,
    new_tokens_per_turn=160.0,
    tenants=100,
    sessions=10_000,
)


def test_rates_follow_from_what_the_fleet_does() -> None:
    assert (FLEET.stored_blocks_s, FLEET.turns_s) == (1_000.0, 100.0)
    assert stream_bytes_s(FLEET, COSTS) == 1_000 * 100 + 100 * 200


def test_the_fullest_part_stands_first_and_says_how_many_workers_it_serves() -> None:
    found = {load.part: load for load in loads(FLEET, COSTS)}

    assert next(iter(found)) == "index memory"
    assert found["index memory"].processes == 256 / 64
    assert found["index memory"].saturates_at(FLEET) == 2
    assert found["decoding and index"].demand == pytest.approx(1_000 * 5e-6)
    assert found["archive, one writer"].saturates_at(FLEET) == 100


def test_a_million_turns_cost_what_their_parts_do() -> None:
    usd = usd_per_million_turns(FLEET, COSTS)

    assert usd["stream and index, CPU"] == pytest.approx(10 * 6e-6 * 0.05 / 3600 * 1e6)
    assert usd["archive, disk"] == pytest.approx(0.10 * 12)


def test_sessions_spread_evenly_and_tenants_do_not() -> None:
    tenants = sessions_by_tenant(FLEET, np.random.default_rng(1))
    by_tenant = shares(tenants, "tenant", 16, seed=1)
    by_session = shares(tenants, "tenant and session", 16, seed=1)

    assert by_tenant.sum() == pytest.approx(1.0)
    assert by_session.max() * 16 < 1.2
    assert by_tenant.max() * 16 > 1.5


def test_what_waits_grows_while_nothing_is_done_and_is_worked_off_later() -> None:
    arriving = np.array([3.0, 3.0, 3.0, 3.0, 3.0, 0.0])

    assert backlog(arriving, 5.0, stopped_s=2).tolist() == [3.0, 6.0, 4.0, 2.0, 0.0, 0.0]


def test_a_run_is_the_same_again_and_too_full_a_partition_never_recovers() -> None:
    even = spread(FLEET, "tenant and session", 8)

    assert even == spread(FLEET, "tenant and session", 8)
    assert even.recovered_s < 90
    assert math.isinf(spread(FLEET, "tenant and session", 8, headroom=0.5).recovered_s)
