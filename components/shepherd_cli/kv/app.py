"""The commands of `shepherd kv` and their options; each does its work elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shepherd_cli.kv.sources import Source, with_source
from shepherd_cli.kv.terminal import USAGE, CommandError, run, say
from shepherd_cli.kv.topics import TOPICS
from shepherd_events.event_filter import EventFilter, Op
from shepherd_events.events import Tier

app = typer.Typer(
    help="Watch, keep, play back and compare what KV caches say.",
    no_args_is_help=True,
    epilog="More: shepherd kv help addresses | filters | formats | recordings | bridge | exit-codes",
)

_FILTER, _OUTPUT = "What to show", "How to show it"
_TIERS = tuple(tier.name.lower() for tier in Tier)

Urls = Annotated[
    list[str] | None, typer.Argument(help="Stream URLs; without any, every discovered stream.")
]
Targets = Annotated[
    list[str] | None,
    typer.Argument(help="Stream URLs or workers; without any, every discovered stream."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Tiers = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        help=" ".join(_TIERS),
        rich_help_panel=_FILTER,
        autocompletion=lambda: list(_TIERS),
    ),
]


def _names(help_text: str, flag: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(flag, help=help_text, rich_help_panel=_FILTER)
    return option


@app.command()
@with_source
def tail(
    urls: Urls = None,
    *,
    types: Annotated[list[Op] | None, _names("Kind of event.", "--type")] = None,
    sessions: Annotated[list[str] | None, _names("Session.", "--session")] = None,
    tenants: Annotated[list[str] | None, _names("Tenant.", "--tenant")] = None,
    workers: Annotated[list[str] | None, _names("Worker.", "--worker")] = None,
    tiers: Tiers = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest frame that is kept.")
    ] = False,
    cursor: Annotated[
        Path | None, typer.Option(help="File that keeps the place, to go on from next time.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after N lines.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line.", rich_help_panel=_OUTPUT)
    ] = False,
    line_format: Annotated[
        str,
        typer.Option("--format", help="Such as '{time} {op} {hashes}'.", rich_help_panel=_OUTPUT),
    ] = "",
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Token ids, too.", rich_help_panel=_OUTPUT)
    ] = False,
    source: Source,
) -> None:
    """Print events as they come, one a line."""
    from shepherd_cli.kv.lines import EventLine, FormatError, LineFormat  # noqa: PLC0415 - quick help
    from shepherd_cli.kv.tail import TailOptions, run_tail  # noqa: PLC0415 - quick help

    if as_json and line_format:
        _refuse("--json and --format exclude one another")
    try:
        show = LineFormat(line_format).of if line_format else EventLine.to_text
    except FormatError as error:
        _refuse(str(error))
    options = TailOptions(
        wanted=EventFilter(
            workers=frozenset(workers or ()),
            ops=frozenset(types or ()),
            tiers=_tiers(tiers),
            sessions=frozenset(sessions or ()),
            tenants=frozenset(tenants or ()),
        ),
        show=EventLine.to_json if as_json else show,
        from_start=from_start,
        with_tokens=tokens,
        count=count,
        cursor_file=cursor,
    )
    run(run_tail(source, urls or (), options))


@app.command()
@with_source
def top(
    urls: Urls = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table when every stream is live.")
    ] = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Show every worker's blocks, rates, hit rate, lag and state, live."""
    from shepherd_cli.kv.top import run_top  # noqa: PLC0415 - quick help

    run(run_top(source, urls or (), interval_s=interval, once=once, as_json=as_json))


@app.command()
@with_source
def record(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    urls: Urls = None,
    from_head: Annotated[
        bool, typer.Option("--from-head", help="Leave out what was said before.")
    ] = False,
    duration: Annotated[
        float, typer.Option("--for", min=0.0, help="End after so many seconds.")
    ] = 0.0,
    *,
    source: Source,
) -> None:
    """Write streams to a file, until Ctrl-C."""
    from shepherd_cli.kv.record import run_record  # noqa: PLC0415 - quick help

    run(run_record(source, file, urls or (), from_head=from_head, duration_s=duration))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A recording.")],
    to: Annotated[
        str, typer.Option(help="tcp://HOST:PORT, port 0 for a free one; or nats://HOST:PORT.")
    ] = "tcp://127.0.0.1:0",
    speed: Annotated[str, typer.Option(help="Times the recorded one, or max.")] = "1",
    skip: Annotated[float, typer.Option(min=0.0, help="Leave out the first seconds.")] = 0.0,
    stay: Annotated[
        bool, typer.Option("--stay", help="Keep the streams after the end, until Ctrl-C.")
    ] = False,
) -> None:
    """Publish a recording anew and print the URLs of its streams."""
    from shepherd_cli.kv.record import (  # noqa: PLC0415 - quick help
        ReplayOptions,
        parse_speed,
        parse_target,
        run_replay,
    )

    try:
        options = ReplayOptions(
            to=parse_target(to), speed=parse_speed(speed), skip_s=skip, stay=stay
        )
    except CommandError as error:
        _refuse(str(error))
    run(run_replay(file, options))


@app.command()
@with_source
def stats(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stream URLs, workers or recordings; without any, every stream."),
    ] = None,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Say how much each cache, or recording, holds."""
    from shepherd_cli.kv.inspect import run_stats  # noqa: PLC0415 - quick help

    run(run_stats(source, targets or (), as_json=as_json))


@app.command()
@with_source
def snapshot(
    targets: Targets = None, tiers: Tiers = None, as_json: Json = False, *, source: Source
) -> None:
    """Print every resident run of blocks, parents before children."""
    from shepherd_cli.kv.inspect import run_snapshot  # noqa: PLC0415 - quick help

    run(run_snapshot(source, targets or (), _tiers(tiers), as_json=as_json))


@app.command()
@with_source
def diff(
    targets: Annotated[
        list[str],
        typer.Argument(help="Two streams to compare; or one, with the frames that it sent."),
    ],
    tiers: Tiers = None,
    follow: Annotated[
        float, typer.Option("--for", min=0.0, help="Read one stream for so many seconds first.")
    ] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Hashes shown of each side.")] = 10,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Compare two caches, or a stream with the truth; exits 1 where they differ."""
    from shepherd_cli.kv.diff import DiffOptions, run_diff  # noqa: PLC0415 - quick help

    if len(targets) > 2:
        _refuse(f"{len(targets)} streams: expected one or two")
    options = DiffOptions(tiers=_tiers(tiers), follow_s=follow, limit=limit, as_json=as_json)
    run(run_diff(source, targets, options))


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def bridge(context: typer.Context) -> None:
    """Publish the KV events of vLLM, SGLang or Dynamo's TensorRT-LLM worker as streams."""
    from shepherd_cli.kv.bridge import run_bridge  # noqa: PLC0415 - quick help

    run(run_bridge(context.args))


@app.command("help")
def explain(
    topic: Annotated[
        str, typer.Argument(help=" ".join(TOPICS), autocompletion=lambda: list(TOPICS))
    ] = "",
) -> None:
    """Explain a topic: addresses, filters, formats, recordings, bridge, exit-codes."""
    if topic and topic not in TOPICS:
        _refuse(f"no topic {topic!r}: expected one of {', '.join(TOPICS)}")
    if not topic:
        typer.echo("Topics: " + ", ".join(TOPICS))
        return
    typer.echo(TOPICS[topic], nl=False)


def _tiers(names: list[str] | None) -> frozenset[Tier]:
    unknown = [name for name in names or () if name not in _TIERS]
    if unknown:
        _refuse(f"--tier {unknown[0]!r}: expected one of {', '.join(_TIERS)}")
    return frozenset(Tier[name.upper()] for name in names or ())


def _refuse(problem: str) -> NoReturn:
    say(f"shepherd kv: {problem}")
    raise typer.Exit(USAGE)
