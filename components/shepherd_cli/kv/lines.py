"""What a stream says, as one line an event: text, JSON, or a format of one's own.

Pure: items in, lines out.  A line never holds the text of a conversation; token
ids are shown where they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from string import Formatter
from typing import Any

from shepherd_events.event_filter import op_of
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockEvent,
    BlocksCleared,
    BlocksStored,
    Frame,
    Goodbye,
    Notice,
    StreamId,
    StreamInfo,
    TurnCompleted,
)
from shepherd_events.subscription_types import Item, Reset


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event; its fields are those of `--format` and the keys of `--json`."""

    ts_unix_ns: int
    worker: str
    rank: int
    epoch: int
    seq: int
    op: str
    """An `Op`, or "reset"."""
    tier: str = ""
    blocks: int = 0
    tokens: int = 0
    """Token ids that came with the blocks; of a turn, prompt and answer together."""
    hashes: tuple[str, ...] = ()
    """Sixteen hexadecimal digits each."""
    parent: str = ""
    start: int = 0
    """Position of the first block in its sequence."""
    session: str = ""
    tenant: str = ""
    request: str = ""
    turn: int = 0
    detail: str = ""
    """The rest, in words."""
    token_ids: tuple[int, ...] = ()

    @property
    def time(self) -> str:
        """When it was published, UTC, to the millisecond; empty for what is there now."""
        if not self.ts_unix_ns:
            return ""
        moment = datetime.fromtimestamp(self.ts_unix_ns / 1e9, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def to_json(self) -> str:
        """One JSON object without what is empty."""
        fields = {name: getattr(self, name) for name in FIELDS}
        always = ("worker", "rank", "epoch", "seq", "op")
        shown = {name: value for name, value in fields.items() if name in always or value}
        return json.dumps(shown, ensure_ascii=False)

    def to_text(self) -> str:
        """A line for people."""
        blocks = f"{self.blocks:>5}" if self.blocks else "     "
        words = [_hash_range(self.hashes), self.detail]
        words += [f"{name}={value}" for name, value in self._attribution() if value]
        stream = f"{self.worker}/{self.rank}"
        start = f"{self.time}  {stream:<12} {self.seq:>6}  {self.op:<8} {self.tier:<7}{blocks}  "
        return (start + " ".join(word for word in words if word)).rstrip()

    def _attribution(self) -> tuple[tuple[str, str | int], ...]:
        return (("session", self.session), ("turn", self.turn), ("tenant", self.tenant))


FIELDS = ("time", *EventLine.__dataclass_fields__)
"""What a format string may name, and what `--json` shows, in this order."""


class FormatError(ValueError):
    """A format string that names what no line has."""


class LineFormat:
    """A format string such as `{time} {op:<8} {hashes}`."""

    def __init__(self, text: str) -> None:
        """Raises FormatError where it cannot be used for every line."""
        self._text = text.replace("\\t", "\t").replace("\\n", "\n")
        try:
            parts = list(Formatter().parse(self._text))
        except ValueError as error:
            raise FormatError(f"--format {text!r}: {error}") from error
        for _, name, spec, _ in parts:
            if name is not None and (name not in FIELDS or "{" in (spec or "")):
                raise FormatError(
                    f"--format: {{{name}}} is not known: expected one of {', '.join(FIELDS)}"
                )
        try:
            self.of(EventLine(0, "", 0, 0, 0, ""))
        except ValueError as error:
            raise FormatError(f"--format {text!r}: {error}") from error

    def of(self, line: EventLine) -> str:
        """One line; lists are joined by commas."""
        return self._text.format_map({name: _plain(getattr(line, name)) for name in FIELDS})


def lines_of(
    stream: StreamId, item: Item, *, at_unix_ns: int, with_tokens: bool = False
) -> Iterator[EventLine]:
    """The events of one item, which was handed out at `at_unix_ns`."""
    if isinstance(item, Reset):
        blocks = sum(len(run.block_hashes) for run in item.blocks)
        yield EventLine(
            at_unix_ns, stream.worker_id, stream.dp_rank, item.epoch, item.as_of_seq, "reset",
            blocks=blocks, detail=f"{item.reason.value}: {blocks} blocks are resident",
        )  # fmt: skip
        return
    if isinstance(item.body, BlockBatch):
        for event in item.body.events:
            yield _of_blocks(item, event, with_tokens=with_tokens)
    else:
        yield _of_body(item)


def run_line(stream: StreamId, epoch: int, seq: int, run: BlocksStored) -> EventLine:
    """A run of a snapshot."""
    frame = Frame(stream, epoch, seq, 0, BlockBatch((run,)))
    return replace(_of_blocks(frame, run, with_tokens=False), op="resident")


def _of_blocks(frame: Frame, event: BlockEvent, *, with_tokens: bool) -> EventLine:
    line = _begin(frame, op_of(event))
    if isinstance(event, BlocksCleared):
        return replace(line, tier=event.tier.name.lower() if event.tier else "all")
    line = replace(
        _attributed(line, event.origin),
        tier=event.tier.name.lower(),
        blocks=len(event.block_hashes),
        hashes=tuple(f"{block_hash:016x}" for block_hash in event.block_hashes),
    )
    if not isinstance(event, BlocksStored):
        return line
    return replace(
        line,
        parent=f"{event.parent_hash:016x}" if event.parent_hash else "",
        start=event.start_block,
        tokens=len(event.token_ids),
        token_ids=tuple(event.token_ids) if with_tokens else (),
    )


def _of_body(frame: Frame) -> EventLine:
    body = frame.body
    match body:
        case TurnCompleted():
            line = _attributed(_begin(frame, op_of(body)), body.origin)
            tokens = body.prompt_tokens + body.generated_tokens
            detail = (
                f"{body.prompt_tokens}+{body.generated_tokens} tokens, "
                f"{body.cached_tokens} cached, {body.finish_reason}"
            )
            return replace(line, tokens=tokens, blocks=body.num_full_blocks, detail=detail)
        case Notice():
            turns = ",".join(map(str, body.turns))
            line = replace(_begin(frame, op_of(body)), session=body.session_id, tenant=body.tenant)
            return replace(line, detail=f"turns {turns} archived, notice {body.notice_id}")
        case StreamInfo():
            engine = " ".join(word for word in (body.engine, body.engine_version) if word)
            detail = f"{body.model}, {body.block_size} tokens a block, {engine or 'no engine'}"
            return replace(_begin(frame, op_of(body)), detail=detail)
        case Goodbye():
            return replace(_begin(frame, op_of(body)), detail=body.reason)
        case _:
            return _begin(frame, type(body).__name__.lower())


def _begin(frame: Frame, op: str) -> EventLine:
    stream = frame.stream
    return EventLine(
        frame.ts_unix_ns, stream.worker_id, stream.dp_rank, frame.epoch, frame.seq, str(op)
    )


def _attributed(line: EventLine, origin: Attribution | None) -> EventLine:
    if origin is None:
        return line
    return replace(
        line,
        session=origin.session_id,
        tenant=origin.tenant,
        request=origin.request_id,
        turn=origin.turn,
    )


def _hash_range(hashes: tuple[str, ...]) -> str:
    if len(hashes) < 2:
        return "".join(hashes)
    return f"{hashes[0]}..{hashes[-1]}"


def _plain(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
