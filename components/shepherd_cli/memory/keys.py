"""`shepherd memory keys`: the file of API keys, which running services read again by themselves."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from shepherd_auth.api_keys import ApiKey
from shepherd_auth.errors import CredentialFileError
from shepherd_auth.identity import Scope
from shepherd_auth.key_file import KeyFile
from shepherd_cli.memory.asking import REFUSED, UNUSABLE_FILE, USAGE, Json, fail, put

app = typer.Typer(help="Make, list, revoke and rotate API keys.", no_args_is_help=True)

File = Annotated[
    Path,
    typer.Option(
        "--file", envvar="SHEPHERD_API_KEYS_FILE", help="The file; made by the first key."
    ),
]
KeyId = Annotated[str, typer.Argument(help="The key, as `list` names it.")]
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command()
def create(
    file: File,
    tenant: Annotated[str, typer.Option(help="Whose key; * is for any tenant, one at a time.")],
    scopes: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What it allows; read and write if none.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    lifetime: Annotated[str, typer.Option(help="Such as 12h or 90d; empty never ends.")] = "",
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    granted = scopes or [Scope.READ, Scope.WRITE]
    lifetime_s = _seconds("--lifetime", lifetime) if lifetime else None
    try:
        key, secret = _keys(file).create(
            name=name, tenant=tenant, scopes=granted, lifetime_s=lifetime_s
        )
    except ValueError as error:
        raise fail(USAGE, str(error)) from error
    except CredentialFileError as error:
        raise fail(UNUSABLE_FILE, str(error)) from error
    _say_made(key, secret, as_json=as_json)


@app.command("list")
def list_keys(file: File, as_json: Json = False) -> None:
    """List the keys; their secrets are not kept."""
    try:
        keys = _keys(file).keys()
    except CredentialFileError as error:
        raise fail(UNUSABLE_FILE, str(error)) from error
    if as_json:
        put([_document(key) for key in keys])
        return
    for key in keys:
        ends = "never ends" if key.expires_unix_s is None else f"ends {_time(key.expires_unix_s)}"
        typer.echo(
            f"{key.key_id}  {key.tenant}  {','.join(sorted(key.scopes))}  {ends}  {key.name}"
        )


@app.command()
def revoke(file: File, key_id: KeyId) -> None:
    """Remove a key at once."""
    try:
        _keys(file).revoke(key_id)
    except KeyError as error:
        raise fail(REFUSED, f"there is no key {key_id!r} in {file}") from error
    except CredentialFileError as error:
        raise fail(UNUSABLE_FILE, str(error)) from error


@app.command()
def rotate(
    file: File,
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old key goes on.")] = "24h",
    as_json: Json = False,
) -> None:
    """Make a successor with the same rights and print it, this once."""
    try:
        key, secret = _keys(file).rotate(key_id, overlap_s=_seconds("--overlap", overlap))
    except KeyError as error:
        raise fail(REFUSED, f"there is no key {key_id!r} in {file}") from error
    except CredentialFileError as error:
        raise fail(UNUSABLE_FILE, str(error)) from error
    _say_made(key, secret, as_json=as_json)


def _keys(file: Path) -> KeyFile:
    return KeyFile(file.expanduser(), now_unix_s=time.time)


def _seconds(flag: str, text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise fail(USAGE, f"{flag} {text!r}: expected a number with s, m, h or d, such as 90d")
    return int(found[1]) * _SECONDS[found[2]]


def _say_made(key: ApiKey, secret: str, *, as_json: bool) -> None:
    if as_json:
        put(_document(key) | {"secret": secret})
        return
    typer.echo(secret)
    typer.echo(f"key {key.key_id} of {key.tenant}: keep it, it is not shown again", err=True)


def _document(key: ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "created_unix_s": key.created_unix_s,
        "expires_unix_s": key.expires_unix_s,
    }


def _time(unix_s: int) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}"
