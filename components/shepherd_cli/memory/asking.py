"""How a command reaches the service, and how it ends when that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shepherd_auth.errors import CredentialFileError
from shepherd_auth.private_file import read_private
from shepherd_memory.client import (
    Connection,
    MemoryClient,
    MemoryClientError,
    MemoryUnreachableError,
)
from shepherd_memory.retrieval.dates import moment_of

REFUSED, USAGE, UNUSABLE_FILE, UNREACHABLE = 1, 2, 3, 4

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Service:
    """Where the service is, and what is shown to it."""

    url: str
    admin_url: str
    key: str
    tenant: str

    def client(self) -> MemoryClient:
        """For a tenant."""
        return MemoryClient(self.url, key=self.key, tenant=self.tenant)


def service_of(context: typer.Context) -> Service:
    """What the options of `shepherd memory` say."""
    service: Service = context.obj
    return service


def key_of(text: str, file: Path | None) -> str:
    """The credential: from a file, or as the environment has it."""
    if file is None:
        return text
    try:
        return read_private(file).decode().strip()
    except (CredentialFileError, UnicodeDecodeError) as error:
        raise fail(UNUSABLE_FILE, str(error)) from error


def moment(option: str, text: str, *, is_end: bool = False) -> int | None:
    """The time that an option says; ends the command where it is none."""
    try:
        return moment_of(text, is_end=is_end) if text else None
    except ValueError as error:
        raise fail(USAGE, f"{option} {text!r} is not valid: expected {error}") from error


def ask(context: typer.Context, question: Callable[[MemoryClient], Awaitable[None]]) -> None:
    """Ask the service for a tenant; ends the command where it cannot answer."""

    async def asked() -> None:
        async with service_of(context).client() as client:
            await question(client)

    run(asked())


def ask_operator(context: typer.Context, question: Callable[[Connection], Awaitable[None]]) -> None:
    """Ask the operator's interface; ends the command where it cannot answer."""
    service = service_of(context)

    async def asked() -> None:
        connection = Connection(service.admin_url, service.key, "", pause_s=0.2)
        await connection.open()
        try:
            await question(connection)
        finally:
            await connection.close()

    run(asked())


def run(work: Any) -> None:
    """Run to the end; errors end the command with their exit code."""
    try:
        asyncio.run(work)
    except MemoryUnreachableError as error:
        raise fail(UNREACHABLE, str(error)) from error
    except MemoryClientError as error:
        code = UNREACHABLE if error.status in {401, 403} else REFUSED
        raise fail(code, str(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def fail(code: int, message: str) -> typer.Exit:
    """Say why, and the exception that ends the command."""
    typer.echo(f"shepherd memory: {message}", err=True)
    return typer.Exit(code)


def put(document: Any) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
