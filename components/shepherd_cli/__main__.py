"""The `shepherd` command."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shepherd_cli.kv.app import app as kv_app
from shepherd_cli.memory.app import app as memory_app
from shepherd_cli.process import ProcessFailedError

app = typer.Typer(
    help="Shepherd on one machine: Dynamo's frontend, workers whose caches speak, and a memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(kv_app, name="kv")
app.add_typer(memory_app, name="memory")
BuildDir = Annotated[Path, typer.Option(help="Where models, logs and reports are written.")]
DEFAULT_BUILD_DIR = Path("build")


@app.command()
def demo(
    build_dir: BuildDir = DEFAULT_BUILD_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run the whole path once and write BUILD_DIR/demo.json; exits 1 where a part of it failed."""
    from shepherd_cli.demo import run_demo  # noqa: PLC0415  keeps `--help` quick

    passed = _run(run_demo(_made(build_dir), as_json=as_json))
    raise typer.Exit(0 if passed else 1)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def up(context: typer.Context) -> None:
    """Run the whole system until Ctrl-C; what ends is started again."""
    from shepherd_cli.up import run_up  # noqa: PLC0415  keeps `--help` quick

    raise typer.Exit(run_up(context.args))


@app.command()
def top(
    build_dir: BuildDir = DEFAULT_BUILD_DIR,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for each update.")
    ] = False,
) -> None:
    """Show what `shepherd up` runs: processes, workers, caches, streams, memory, gateway, live."""
    from shepherd_cli.kv.terminal import run  # noqa: PLC0415  keeps `--help` quick
    from shepherd_cli.top.command import run_top  # noqa: PLC0415  as above

    run(run_top(build_dir, interval_s=interval, once=once, as_json=as_json), "shepherd top")


@app.command()
def chat(
    url: Annotated[str, typer.Option(help="The gateway, or a frontend, without /v1.")],
    model: Annotated[str, typer.Option(help="Its model; the first by default.")] = "",
    session: Annotated[str, typer.Option(help="Name of the conversation.")] = "me",
    memory: Annotated[str, typer.Option(help="The memory service.")] = "",
    worker: Annotated[list[str] | None, typer.Option(help="A worker's status server.")] = None,
) -> None:
    """Talk to a model; /memory, /facts and /cache look behind it."""
    from shepherd_cli.talk import Places, run_chat  # noqa: PLC0415  keeps `--help` quick

    bare = tuple(each.rstrip("/") for each in (url, memory, *(worker or ())))
    places = Places(bare[0], model, session, bare[1], bare[2:])
    raise typer.Exit(run_chat(places, Console()))


@app.command()
def doctor(
    engine: Annotated[str, typer.Option(help="torch or trtllm: what is to run here.")] = "torch",
    model: Annotated[str, typer.Option(help="Model directory to examine.")] = "",
    port: Annotated[list[int] | None, typer.Option(help="Port that must be free.")] = None,
    nats: Annotated[str, typer.Option(envvar="NATS_SERVER", help="NATS, where used.")] = "",
    etcd: Annotated[str, typer.Option(envvar="ETCD_ENDPOINTS", help="etcd, where used.")] = "",
    postgres: Annotated[str, typer.Option(help="PostgreSQL, where used.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine; exits 0 when all is well, 1 with warnings, 2 with failures."""
    from shepherd_cli import doctor as doctors  # noqa: PLC0415  keeps `--help` quick
    from shepherd_cli.doctor_checks import CHECKS  # noqa: PLC0415  as above
    from shepherd_cli.doctor_machine import ThisMachine  # noqa: PLC0415  as above

    if engine not in {"torch", "trtllm"}:
        raise typer.BadParameter("expected torch or trtllm", param_hint="--engine")
    patient = doctors.Patient(
        engine="trtllm" if engine == "trtllm" else "torch",
        model=model,
        ports=tuple(port or ()),
        nats=nats,
        etcd=etcd,
        postgres=postgres,
    )
    findings = doctors.examine(ThisMachine(), patient, CHECKS)
    if as_json:
        typer.echo(doctors.as_json(findings))
    else:
        doctors.show(findings, Console())
    raise typer.Exit(doctors.exit_code(findings))


def _made(build_dir: Path) -> Path:
    build_dir.mkdir(parents=True, exist_ok=True)
    return build_dir.resolve()


def _run(work: Coroutine[Any, Any, bool | None]) -> bool | None:
    """Run to the end, or until SIGINT or SIGTERM; either way everything started is stopped."""

    async def cancellable() -> bool | None:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return None

    try:
        return asyncio.run(cancellable())
    except* ProcessFailedError as group:
        for error in group.exceptions:
            sys.stderr.write(f"shepherd: {error}\n")
    raise typer.Exit(1)


def main() -> None:
    """Entry point of the `shepherd` command."""
    app()


if __name__ == "__main__":
    main()
