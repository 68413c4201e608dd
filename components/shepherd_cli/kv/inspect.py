"""`shepherd kv stats` and `shepherd kv snapshot`: what caches, and recordings, hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from shepherd_cli.kv.lines import EventLine, lines_of, run_line
from shepherd_cli.kv.sources import Source
from shepherd_cli.kv.terminal import say, write
from shepherd_events.control_client import Snapshot, control_of
from shepherd_events.events import BlocksStored, StreamAddress, Tier
from shepherd_events.recording import RecordedItem, Recording
from shepherd_events.resident_set import ResidentSet
from shepherd_events.transports.protocol import Connect

_LINES_AT_ONCE = 500


async def snapshot_of(address: StreamAddress, connect: Connect, timeout_s: float) -> Snapshot:
    """What is resident now.

    Raises:
        KvEventsError: nobody answers, or with nonsense.
    """
    async with control_of(address, timeout_s=timeout_s, connect=connect) as control:
        return await control.snapshot()


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What one cache holds."""

    stream: str
    live: str
    control: str
    epoch: int
    head_seq: int
    blocks: dict[str, int]
    """By tier."""
    digests: dict[str, str]
    """Exclusive or of the hashes, by tier."""
    tokens: int
    """In distinct blocks; 0 where the stream carries none."""
    chains: int
    """Blocks at the root of a chain."""
    sessions: int
    tenants: int

    def to_text(self) -> str:
        """Several lines for people."""
        tiers = ", ".join(f"{count} on {tier}" for tier, count in self.blocks.items()) or "none"
        return (
            f"{self.stream}  {self.live}\n"
            f"  epoch {self.epoch}, frame {self.head_seq}\n"
            f"  blocks    {tiers}\n"
            f"  tokens    {self.tokens} in {self.chains} chains\n"
            f"  from      {self.sessions} sessions of {self.tenants} tenants\n"
        )


def stats_of(address: StreamAddress, snapshot: Snapshot) -> CacheStats:
    """Figures of a snapshot."""
    residents = ResidentSet(snapshot.blocks)
    origins = {run.origin for run in snapshot.blocks if run.origin is not None}
    return CacheStats(
        stream=str(address.stream),
        live=address.live,
        control=address.control,
        epoch=snapshot.position.epoch,
        head_seq=snapshot.position.seq,
        blocks={state.tier.name.lower(): state.blocks for state in residents.digest()},
        digests={state.tier.name.lower(): f"{state.xor:016x}" for state in residents.digest()},
        tokens=_distinct_tokens(snapshot.blocks),
        chains=len({run.block_hashes[0] for run in snapshot.blocks if run.parent_hash is None}),
        sessions=len({origin.session_id for origin in origins if origin.session_id}),
        tenants=len({origin.tenant for origin in origins if origin.tenant}),
    )


def _distinct_tokens(runs: Iterable[BlocksStored]) -> int:
    sizes = {
        block_hash: len(run.token_ids) // len(run.block_hashes)
        for run in runs
        for block_hash in run.block_hashes
    }
    return sum(sizes.values())


async def run_stats(source: Source, targets: Sequence[str], *, as_json: bool) -> None:
    """Show figures of streams and recordings."""
    recordings = _files(targets)
    for target in recordings:
        await write(_recording_stats(Path(target), as_json=as_json))
    others = [target for target in targets if target not in recordings]
    if recordings and not others:
        return
    for address in await source.addresses(others):
        snapshot = await snapshot_of(address, source.connect, source.timeout_s)
        stats = stats_of(address, snapshot)
        await write(json.dumps(asdict(stats)) + "\n" if as_json else stats.to_text())


def _files(targets: Sequence[str]) -> list[str]:
    return [target for target in targets if Path(target).is_file()]


def _recording_stats(path: Path, *, as_json: bool) -> str:
    with Recording(path) as recording:
        counts: Counter[str] = Counter()
        first: RecordedItem | None = None
        last: RecordedItem | None = None
        streams: dict[str, None] = {}
        for recorded in recording.items():
            first = first or recorded
            last = recorded
            streams[str(recorded.stream)] = None
            counts.update(
                line.op for line in lines_of(recorded.stream, recorded.item, at_unix_ns=0)
            )
        if recording.unread_bytes:
            say(f"{path} was not closed: its last {recording.unread_bytes} bytes were not read")
        closed = recording.index is not None
    duration_s = (last.unix_ns - first.unix_ns) / 1e9 if first and last else 0.0
    began = _moment(first.unix_ns) if first else ""
    if as_json:
        said = {
            "file": str(path), "closed": closed, "began": began, "duration_s": duration_s,
            "streams": list(streams), "events": dict(counts),
        }  # fmt: skip
        return json.dumps(said) + "\n"
    events = ", ".join(f"{count} {op}" for op, count in counts.most_common()) or "none"
    return (
        f"{path}  {'closed' if closed else 'not closed'}\n"
        f"  began     {began or 'never'}, lasted {duration_s:.1f} s\n"
        f"  streams   {', '.join(streams) or 'none'}\n"
        f"  events    {events}\n"
    )


def _moment(unix_ns: int) -> str:
    moment = datetime.fromtimestamp(unix_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def run_snapshot(
    source: Source, targets: Sequence[str], tiers: frozenset[Tier], *, as_json: bool
) -> None:
    """Write every resident run, parents before children."""
    for address in await source.addresses(targets):
        snapshot = await snapshot_of(address, source.connect, source.timeout_s)
        position = snapshot.position
        say(f"{address.stream} as of frame {position.seq} of epoch {position.epoch}")
        runs = [run for run in snapshot.blocks if not tiers or run.tier in tiers]
        for start in range(0, len(runs), _LINES_AT_ONCE):
            lines = [
                _shown(run_line(address.stream, position.epoch, position.seq, run), as_json)
                for run in runs[start : start + _LINES_AT_ONCE]
            ]
            await write("".join(lines))


def _shown(line: EventLine, as_json: bool) -> str:
    if as_json:
        return line.to_json() + "\n"
    parent = line.parent or "root"
    shown = f"{line.worker}/{line.rank}  {line.tier:<7}{line.start:>6}  {parent:<16}"
    session = f"  session={line.session}" if line.session else ""
    return f"{shown}  {','.join(line.hashes)}{session}\n"
