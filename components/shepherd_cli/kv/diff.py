"""`shepherd kv diff`: whether two caches hold the same, or a stream tells the truth.

With one stream its frames are read up to a snapshot that the publisher takes
meanwhile: the blocks that the frames add up to must be the snapshot's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from shepherd_cli.kv.inspect import snapshot_of
from shepherd_cli.kv.sources import Source
from shepherd_cli.kv.terminal import DIFFERENT, UNREACHABLE, CommandError, say, write
from shepherd_events.control_client import Snapshot
from shepherd_events.events import StreamAddress, Tier
from shepherd_events.resident_set import ResidentSet
from shepherd_events.stream_cursor import Position
from shepherd_events.subscriber import Subscription, subscribe
from shepherd_events.subscription_types import StreamState

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class TierDifference:
    """The hashes of one tier on both sides."""

    tier: str
    both: int
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both sides hold the same."""
        return not self.only_left and not self.only_right


def differences(
    left: ResidentSet, right: ResidentSet, tiers: frozenset[Tier]
) -> list[TierDifference]:
    """What each tier holds on one side alone; tiers that are empty on both are left out."""
    found = []
    for tier in sorted(tiers or Tier):
        mine, other = left.hashes(tier), right.hashes(tier)
        if mine or other:
            found.append(
                TierDifference(
                    tier=tier.name.lower(),
                    both=len(mine & other),
                    only_left=tuple(f"{h:016x}" for h in sorted(mine - other)),
                    only_right=tuple(f"{h:016x}" for h in sorted(other - mine)),
                )
            )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffOptions:
    """What to compare and how to tell."""

    tiers: frozenset[Tier]
    follow_s: float = 0.0
    """How long a stream is read before it is compared with its snapshot."""
    limit: int = 10
    """Hashes shown of each side."""
    as_json: bool = False


async def run_diff(source: Source, targets: Sequence[str], options: DiffOptions) -> int:
    """Compare and tell; 0 where nothing differs."""
    addresses = await source.addresses(targets)
    if len(addresses) == 1:
        left, right = await _stream_and_snapshot(source, addresses[0], options.follow_s)
        names = ("the stream", "the snapshot")
    else:
        left, right = await asyncio.gather(*(_residents(source, a) for a in addresses))
        names = _names(*addresses)
    found = differences(left, right, options.tiers)
    await write(_shown(found, names, options))
    return 0 if all(difference.is_equal for difference in found) else DIFFERENT


def _names(left: StreamAddress, right: StreamAddress) -> tuple[str, str]:
    """What tells two streams apart."""
    if left.stream == right.stream:
        return left.live, right.live
    return str(left.stream), str(right.stream)


async def _residents(source: Source, address: StreamAddress) -> ResidentSet:
    snapshot = await snapshot_of(address, source.connect, source.timeout_s)
    return ResidentSet(snapshot.blocks)


async def _stream_and_snapshot(
    source: Source, address: StreamAddress, follow_s: float
) -> tuple[ResidentSet, ResidentSet]:
    """What the frames add up to, and what the publisher says, at one and the same position.

    The digests of heartbeats are not consulted: they would heal what is looked for.
    """
    residents = ResidentSet()
    async with subscribe(address, connect=source.connect) as stream:
        await _read_for(stream, residents, follow_s, source.timeout_s)
        for _ in range(_ATTEMPTS):
            snapshot = await snapshot_of(address, source.connect, source.timeout_s)
            if await _read_up_to(stream, residents, snapshot, source.timeout_s):
                position = snapshot.position
                say(f"{address.stream} at frame {position.seq} of epoch {position.epoch}")
                return residents, ResidentSet(snapshot.blocks)
    raise CommandError(
        UNREACHABLE, f"{address.stream} was reset {_ATTEMPTS} times meanwhile: try again"
    )


async def _read_for(
    stream: Subscription, residents: ResidentSet, follow_s: float, timeout_s: float
) -> None:
    """Read until everything that exists was handed out and `follow_s` seconds have passed."""
    loop = asyncio.get_running_loop()
    until, patience = loop.time() + follow_s, loop.time() + follow_s + timeout_s
    while loop.time() < until or stream.state is not StreamState.LIVE:
        if loop.time() > patience:
            raise CommandError(UNREACHABLE, f"the stream is {stream.state} after {timeout_s:g} s")
        try:
            async with asyncio.timeout(0.1):
                residents.follow(await anext(stream))
        except TimeoutError:
            continue


async def _read_up_to(
    stream: Subscription, residents: ResidentSet, snapshot: Snapshot, timeout_s: float
) -> bool:
    """Read to the snapshot's position exactly; false where the stream leaps over it."""
    begin = Position(snapshot.position.epoch, 0)
    while begin <= stream.position < snapshot.position:
        try:
            async with asyncio.timeout(timeout_s):
                residents.follow(await anext(stream))
        except TimeoutError:
            at = f"frame {stream.position.seq} of {snapshot.position.seq}"
            problem = f"the stream stands at {at} for {timeout_s:g} s"
            raise CommandError(UNREACHABLE, problem) from None
    return stream.position == snapshot.position


def _shown(found: Sequence[TierDifference], names: tuple[str, str], options: DiffOptions) -> str:
    if options.as_json:
        said = {"left": names[0], "right": names[1], "tiers": [asdict(tier) for tier in found]}
        return json.dumps(said) + "\n"
    lines = []
    for tier in found:
        verdict = "equal" if tier.is_equal else "DIFFERENT"
        lines.append(f"{tier.tier:<7} {verdict}: {tier.both} blocks on both sides")
        for name, only in zip(names, (tier.only_left, tier.only_right), strict=True):
            if only:
                more = f" and {len(only) - options.limit} more" if len(only) > options.limit else ""
                hashes = " ".join(only[: options.limit])
                lines.append(f"        {len(only)} only in {name}: {hashes}{more}")
    return "".join(line + "\n" for line in lines) or "both are empty\n"
