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

from shepherd_cli.process import ProcessFailedError

app = typer.Typer(
    help="Shepherd on one machine: Dynamo's frontend, workers whose caches speak, and a memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
BuildDir = Annotated[Path, typer.Option(help="Where models, logs and reports are written.")]
DEFAULT_BUILD_DIR = Path("build")


@app.command()
def demo(build_dir: BuildDir = DEFAULT_BUILD_DIR) -> None:
    """Run the whole path once and write BUILD_DIR/demo.json; exits 1 where a part of it failed."""
    from shepherd_cli.demo import run_demo  # noqa: PLC0415  keeps `--help` quick

    passed = _run(run_demo(_made(build_dir), Console()))
    raise typer.Exit(0 if passed else 1)


@app.command()
def up(build_dir: BuildDir = DEFAULT_BUILD_DIR) -> None:
    """Run the whole system until Ctrl-C."""
    from shepherd_cli.up import run_up  # noqa: PLC0415  keeps `--help` quick

    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)  # a command must not be broken

    _run(run_up(_made(build_dir), console, say))


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
