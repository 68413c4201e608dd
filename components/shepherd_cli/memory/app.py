"""The commands of `shepherd memory`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from shepherd_cli.memory.asking import (
    USAGE,
    Json,
    Service,
    ask,
    ask_operator,
    fail,
    key_of,
    moment,
    put,
    service_of,
)
from shepherd_cli.memory.keys import app as keys_app
from shepherd_memory.client import Connection, MemoryClient
from shepherd_memory.models import FactModel, SessionModel, TurnModel

app = typer.Typer(help="Ask a memory service, and run it.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
letters_app = typer.Typer(
    help="What could not be applied or delivered; asks the operator's port.", no_args_is_help=True
)
app.add_typer(letters_app, name="dead-letters")

Session = Annotated[str, typer.Option("--session", help="Only of this session.")]
OneSession = Annotated[str, typer.Argument(help="The session.")]
Archive = Annotated[str, typer.Argument(help="The archive, as `list` names it.")]
Letter = Annotated[str, typer.Argument(help="The letter, as `list` names it.")]
Tenant = Annotated[str, typer.Option("--of", help="Only this tenant's, by its own name.")]


@app.callback()
def main(
    context: typer.Context,
    url: Annotated[
        str, typer.Option(envvar="SHEPHERD_MEMORY_URL", help="The service.")
    ] = "http://127.0.0.1:8765",
    admin_url: Annotated[
        str, typer.Option(envvar="SHEPHERD_MEMORY_ADMIN_URL", help="Its operator's port.")
    ] = "http://127.0.0.1:8766",
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SHEPHERD_MEMORY_KEY_FILE",
            help="File of mode 600 with the credential; else $SHEPHERD_MEMORY_KEY.",
        ),
    ] = None,
    key: Annotated[str, typer.Option(envvar="SHEPHERD_MEMORY_KEY", hidden=True)] = "",
    tenant: Annotated[
        str, typer.Option(help="Whose memory, for keys that are for any tenant.")
    ] = "",
) -> None:
    """Where the service is; options of every command."""
    context.obj = Service(url, admin_url, key_of(key, key_file), tenant)


@app.command()
def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    *,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Answers at most.")] = 5,
    session: Session = "",
    since: Annotated[str, typer.Option(help="Only of this day (2026-05-31), or later.")] = "",
    until: Annotated[str, typer.Option(help="Only of this day, or before.")] = "",
    min_relevance: Annotated[
        float, typer.Option(min=0, max=1, help="Only what fits at least so well.")
    ] = 0.0,
    neighbours: Annotated[
        bool, typer.Option("--neighbours", help="With the turns before and after.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find archived turns."""
    first, end = moment("--since", since), moment("--until", until, is_end=True)

    async def question(memory: MemoryClient) -> None:
        answer = await memory.search(
            query,
            k=k,
            neighbours=neighbours,
            session=session or None,
            since_unix_ns=first,
            until_unix_ns=end,
            min_relevance=min_relevance,
        )
        if as_json:
            put(answer.model_dump(mode="json"))
            return
        for hit in answer.hits:
            typer.echo(f"{hit.relevance:6.2f}  {_heading(hit)}")
            for turn in (hit.before, hit, hit.after):
                if turn is not None:
                    _say_turn(turn)
        if not answer.hits:
            typer.echo("nothing found", err=True)

    ask(context, question)


@app.command()
def sessions(context: typer.Context, as_json: Json = False) -> None:
    """List conversations."""

    async def question(memory: MemoryClient) -> None:
        found: list[SessionModel] = []
        after: str | None = ""
        while after is not None:
            page = await memory.sessions(after=after, limit=1000)
            found += page.sessions
            after = page.next
        if as_json:
            put([each.model_dump(mode="json") for each in found])
            return
        rows = [
            (each.session, str(each.live_turns), str(each.archived_turns), _day(each.last_unix_ns))
            for each in found
        ]
        _table(("SESSION", "LIVE", "ARCHIVED", "LAST"), rows)

    ask(context, question)


@app.command()
def show(context: typer.Context, session: OneSession, as_json: Json = False) -> None:
    """Show a conversation, turn by turn."""

    async def question(memory: MemoryClient) -> None:
        found: list[TurnModel] = []
        after: int | None = 0
        while after is not None:
            page = await memory.turns(session, after=after, limit=1000)
            found += page.turns
            after = page.next
        if as_json:
            put([each.model_dump(mode="json") for each in found])
            return
        for turn in found:
            typer.echo(f"{_heading(turn)}, {turn.state}")
            _say_turn(turn)

    ask(context, question)


@app.command()
def facts(context: typer.Context, as_json: Json = False) -> None:
    """List the facts that hold now."""

    async def question(memory: MemoryClient) -> None:
        found: list[FactModel] = []
        after: str | None = ""
        while after is not None:
            page = await memory.facts(after=after, limit=1000)
            found += page.facts
            after = page.next
        if as_json:
            put([each.model_dump(mode="json") for each in found])
            return
        _table(("KEY", "VALUE"), [(each.key, each.value) for each in found])

    ask(context, question)


@app.command()
def export(context: typer.Context, session: Session = "") -> None:
    """Write everything that is kept to stdout, one JSON document a line."""

    async def question(memory: MemoryClient) -> None:
        last: dict[str, Any] = {}
        async for last in memory.export(session or None):
            typer.echo(json.dumps(last, ensure_ascii=False))
        if last.get("kind") != "end":
            raise fail(1, "the export was cut off: what was written is not complete")

    ask(context, question)


@app.command()
def forget(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help="The session.")] = "",
    everything: Annotated[
        bool, typer.Option("--everything", help="All that is kept of the tenant.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a conversation, or everything, for good."""
    if bool(session) == everything:
        raise fail(USAGE, "expected a session or --everything")
    if not yes:
        typer.confirm(f"remove {session or 'everything'} for good?", abort=True, err=True)

    async def question(memory: MemoryClient) -> None:
        erased = (
            await memory.forget_everything() if everything else await memory.forget_session(session)
        )
        if as_json:
            put(erased.model_dump())
            return
        counts = ", ".join(f"{count} {kind}" for kind, count in erased.model_dump().items())
        typer.echo(f"removed {counts}", err=True)

    ask(context, question)


@app.command()
def stats(context: typer.Context, as_json: Json = False) -> None:
    """Say how much is kept of the tenant."""

    async def question(memory: MemoryClient) -> None:
        found = (await memory.stats()).model_dump()
        if as_json:
            put(found)
        else:
            _table(("WHAT", "COUNT"), [(name, str(count)) for name, count in found.items()])

    ask(context, question)


@app.command()
def backup(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="Of the new directory; by default the time.")] = "",
) -> None:
    """Copy every archive on the service's disk, while it runs; asks the operator's port."""

    async def question(operator: Connection) -> None:
        body = {"name": name} if name else {}
        made = await operator.ask("POST", "/admin/v1/backups", body=body)
        typer.echo(made["directory"])

    ask_operator(context, question)


@app.command()
def mcp(context: typer.Context) -> None:
    """Serve the memory's tools over stdio, for a client of the Model Context Protocol."""
    from shepherd_cli.memory.mcp_bridge import bridge  # noqa: PLC0415 - an extra

    bridge(service_of(context))


@letters_app.command("list")
def list_letters(context: typer.Context, tenant: Tenant = "", as_json: Json = False) -> None:
    """List dead letters, without their content."""

    async def question(operator: Connection) -> None:
        found: list[dict[str, Any]] = []
        for archive in await _archives(operator, tenant):
            after = ""
            while after is not None:
                page = await operator.ask(
                    "GET", f"/admin/v1/archives/{archive}/dead-letters", query={"after": after}
                )
                found += [{"archive": archive, **each} for each in page["dead_letters"]]
                after = page["next"]
        if as_json:
            put(found)
            return
        rows = [(each["archive"], each["name"], each["reason"]) for each in found]
        _table(("ARCHIVE", "NAME", "REASON"), rows)

    ask_operator(context, question)


@letters_app.command("replay")
def replay_letter(context: typer.Context, archive: Archive, name: Letter) -> None:
    """Apply what could not be applied before, as when its cause is gone."""

    async def question(operator: Connection) -> None:
        path = f"/admin/v1/archives/{archive}/dead-letters/replay"
        await operator.ask("POST", path, query={"name": name})

    ask_operator(context, question)


@letters_app.command("drop")
def drop_letter(context: typer.Context, archive: Archive, name: Letter) -> None:
    """Forget a dead letter for good."""

    async def question(operator: Connection) -> None:
        path = f"/admin/v1/archives/{archive}/dead-letters"
        await operator.ask("DELETE", path, query={"name": name})

    ask_operator(context, question)


async def _archives(operator: Connection, tenant: str) -> Sequence[str]:
    listed = await operator.ask("GET", "/admin/v1/archives", query={"tenant": tenant or None})
    return list(listed["archives"])


def _heading(turn: TurnModel) -> str:
    return f"{turn.session or 'stored by hand'}, turn {turn.ordinal}, {_day(turn.started_unix_ns)}"


def _say_turn(turn: TurnModel) -> None:
    for message in turn.messages:
        typer.echo(f"  {message.role}: {message.content}")
    typer.echo("")


def _day(unix_ns: int) -> str:
    if not unix_ns:  # of a turn that only its client had
        return "undated"
    return f"{datetime.fromtimestamp(unix_ns / 1e9, UTC):%Y-%m-%d %H:%M}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        typer.echo("nothing there", err=True)
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())
