"""The operator's application: never on the tenants' port.

Every route but health and metrics needs a key with the scope admin for any
tenant, or, where there are no credentials at all, to be asked on this machine.
Answers hold names, counts and reasons; of contents, none.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from shepherd_auth.api_keys import ApiKey
from shepherd_auth.identity import Scope
from shepherd_memory.administration import Administration
from shepherd_memory.api.access import Gate, Operator
from shepherd_memory.api.app import Status, bare_app, status_routes
from shepherd_memory.api.parameters import AfterName, Limit
from shepherd_memory.api.problems import problem_responses
from shepherd_memory.errors import ConflictError, InvalidParameterError, UnknownItemError
from shepherd_memory.models import StatsModel

router = APIRouter(prefix="/admin/v1", tags=["admin"], responses=problem_responses(404))

ArchiveName = Annotated[str, Path(max_length=256, description="As `/admin/v1/archives` lists it.")]
LetterName = Annotated[str, Query(max_length=1024, description="The dead letter's name.")]
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The key's public id.")]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ArchiveList(BaseModel):
    """Names under which tenants' archives and events go."""

    archives: list[str]


class DeadLetterModel(BaseModel):
    """Something that could not be applied or delivered."""

    name: str
    session: str
    reason: str
    size_bytes: int
    attempts: int
    created_unix_ns: int


class DeadLetterPage(BaseModel):
    """Dead letters by name."""

    dead_letters: list[DeadLetterModel]
    next: str | None


class BackupRequest(BaseModel):
    """A copy of everything."""

    model_config = ConfigDict(extra="forbid")
    name: _Name | None = None


class BackupModel(BaseModel):
    """Where a copy is, on the service's own disk."""

    directory: str


class KeyModel(BaseModel):
    """A key as it is kept."""

    key_id: str
    name: str
    tenant: str
    scopes: list[Scope]
    created_unix_s: int
    expires_unix_s: int | None

    @classmethod
    def of(cls, key: ApiKey) -> KeyModel:
        """As it is answered."""
        return cls(
            key_id=key.key_id,
            name=key.name,
            tenant=key.tenant,
            scopes=sorted(key.scopes),
            created_unix_s=key.created_unix_s,
            expires_unix_s=key.expires_unix_s,
        )


class NewKeyModel(KeyModel):
    """A key with the text that is never seen again."""

    secret: str


class KeyList(BaseModel):
    """All keys."""

    keys: list[KeyModel]


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=128)]
    tenant: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)]
    lifetime_s: Annotated[int, Field(gt=0, le=10**10)] | None = None


class RotateRequest(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: Annotated[int, Field(ge=0, le=10**8)] = 86_400


def admin_app(gate: Gate, status: Status, administration: Administration) -> FastAPI:
    """The application for whoever runs the service."""
    app = bare_app("Shepherd memory, administration", gate)
    app.state.administration = administration
    app.include_router(router)
    app.include_router(status_routes(status, detailed=True))
    return app


@router.get("/archives")
async def list_archives(
    _: Operator,
    request: Request,
    tenant: Annotated[str | None, Query(max_length=128, pattern=r"^[\x21-\x7e]*$")] = None,
) -> ArchiveList:
    """All archives, or that of one tenant by its own name."""
    administration = _administration(request)
    names = list(await administration.archives())
    if tenant is not None:
        try:
            wanted = administration.archive_name_of(tenant)
        except UnknownItemError:
            wanted = ""
        names = [name for name in names if name == wanted]
    return ArchiveList(archives=names)


@router.get("/archives/{archive}/stats")
async def archive_stats(_: Operator, request: Request, archive: ArchiveName) -> StatsModel:
    """How much an archive holds."""
    return StatsModel.of(await _administration(request).stats(archive))


@router.get("/archives/{archive}/dead-letters")
async def list_dead_letters(
    _: Operator,
    request: Request,
    archive: ArchiveName,
    after: AfterName = "",
    limit: Limit = 100,
) -> DeadLetterPage:
    """What could not be applied or delivered, by name; without its content."""
    found = await _administration(request).dead_letters(archive, after=after, limit=limit)
    letters = [
        DeadLetterModel(
            name=letter.name,
            session=letter.session,
            reason=letter.reason,
            size_bytes=len(letter.payload),
            attempts=letter.attempts,
            created_unix_ns=letter.created_unix_ns,
        )
        for letter in found
    ]
    following = found[-1].name if len(found) == limit else None
    return DeadLetterPage(dead_letters=letters, next=following)


@router.delete("/archives/{archive}/dead-letters", status_code=204)
async def drop_dead_letter(
    _: Operator, request: Request, archive: ArchiveName, name: LetterName
) -> None:
    """Forget a dead letter for good."""
    await _administration(request).drop_dead_letter(archive, name)


@router.post(
    "/archives/{archive}/dead-letters/replay",
    status_code=204,
    responses=problem_responses(404, 409),
)
async def replay_dead_letter(
    _: Operator, request: Request, archive: ArchiveName, name: LetterName
) -> None:
    """Apply what could not be applied before; 409 where it still cannot be."""
    if not await _administration(request).replay_dead_letter(archive, name):
        raise ConflictError("name", f"{name!r} still cannot be applied; its reason is listed")


@router.post("/backups", status_code=201, responses=problem_responses(404, 409))
async def make_backup(_: Operator, request: Request, asked: BackupRequest) -> BackupModel:
    """Copy every archive while others go on reading and writing."""
    return BackupModel(directory=str(await _administration(request).backup(asked.name)))


@router.get("/keys")
async def list_keys(_: Operator, request: Request) -> KeyList:
    """All API keys; their secrets are not kept."""
    keys = await asyncio.to_thread(_administration(request).keys().keys)
    return KeyList(keys=[KeyModel.of(key) for key in keys])


@router.post("/keys", status_code=201)
async def create_key(_: Operator, request: Request, asked: KeyRequest) -> NewKeyModel:
    """Make an API key; its secret is in this answer and nowhere else."""
    try:
        key, secret = await asyncio.to_thread(
            _administration(request).keys().create,
            name=asked.name,
            tenant=asked.tenant,
            scopes=asked.scopes,
            lifetime_s=asked.lifetime_s,
        )
    except ValueError as error:
        raise InvalidParameterError("tenant", asked.tenant, str(error)) from error
    return NewKeyModel(**KeyModel.of(key).model_dump(), secret=secret)


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(_: Operator, request: Request, key_id: KeyId) -> None:
    """Remove an API key at once."""
    try:
        await asyncio.to_thread(_administration(request).keys().revoke, key_id)
    except KeyError:
        raise UnknownItemError("key", key_id) from None


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(
    _: Operator, request: Request, key_id: KeyId, asked: RotateRequest
) -> NewKeyModel:
    """Make a successor with the same rights; the old key goes on for `overlap_s`."""
    try:
        key, secret = await asyncio.to_thread(
            _administration(request).keys().rotate, key_id, overlap_s=asked.overlap_s
        )
    except KeyError:
        raise UnknownItemError("key", key_id) from None
    return NewKeyModel(**KeyModel.of(key).model_dump(), secret=secret)


def _administration(request: Request) -> Administration:
    administration: Administration = request.app.state.administration
    return administration
