"""`/api/admin`: for operators, whose tokens have the role `admin`. (Not under `/api/v1`.)"""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field, model_validator

from gateway.auth import User
from gateway.denials import Denial, Kind
from gateway.deps import FOR_ADMINS, CurrentAdmin, CurrentServices, Postgres, Settings
from gateway.intake import UserRoute
from gateway.limits import PAGE_LENGTH_DEFAULT, PageLength, PageWanted
from gateway.problems import API_ERRORS, request_id_of
from gateway.routes.account import PurgeId, PurgeView, requested_purge
from gateway.routes.usage import Usage, usage_of
from shared.db.audit import Act, Actor, ActorKind, Entry, read_log
from shared.db.purges import Purge, get_purge
from shared.errors import NotFoundError
from shared.ids import Prefix, from_wire, to_wire

router = APIRouter(prefix="/api/admin", tags=["admin"], route_class=UserRoute, responses=API_ERRORS)

_FOR_EVER = float("inf")
_MOMENT_MAX = 253_402_300_799  # the end of the year 9999

# Shows, in one transaction, the audit log and the purges of all users: row level security lets nothing else through.
_AS_ADMINISTRATOR = "select set_config('app.scope', 'administration', true)"

_Name = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")]


_Subject = Annotated[_Name, Path(description="The subject of the user's tokens.", examples=["ada"])]


class NewDenial(BaseModel):
    """Whom or what to shut out: a user by `subject`, or one token by `token_id`.

    The id of a token is its `jti`; of a token without one, `sha256:` and the hexadecimal SHA-256 of its first two parts
    with the dot between them.
    """

    subject: _Name | None = None
    token_id: _Name | None = None
    reason: str = Field(default="", max_length=1_000)
    until: int | None = Field(
        default=None,
        ge=0,
        le=_MOMENT_MAX,
        description="Seconds since the epoch. Left out: a user until it is lifted, a token until it has ended anyway.",
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.subject is None) == (self.token_id is None):
            raise ValueError("give a subject or a token_id")
        return self


class DenialView(BaseModel):
    """`until` null: until it is lifted."""

    id: str
    kind: Kind
    value: str
    reason: str
    created_by: str
    created_at: int
    until: int | None

    @classmethod
    def of(cls, denial: Denial) -> Self:
        return cls(
            id=to_wire(Prefix.DENIAL, denial.id),
            kind=denial.kind,
            value=denial.value,
            reason=denial.reason,
            created_by=denial.created_by,
            created_at=int(denial.created_at.timestamp()),
            until=None if denial.until == _FOR_EVER else int(denial.until),
        )


class DenialPage(BaseModel):
    items: list[DenialView]
    limit: int
    offset: int


async def _denial_id(denial_id: Annotated[str, Path(examples=["denial_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.DENIAL, denial_id, param="denial_id")


@router.post("/denials", summary="Shut out a user or a token", status_code=HTTPStatus.CREATED)
async def deny(request: Request, body: NewDenial, admin: CurrentAdmin, services: CurrentServices) -> DenialView:
    """From now on requests are refused: of the user with 403, by the token with 401. What is open closes in seconds."""
    if body.subject is not None:
        kind, value = Kind.SUBJECT, body.subject
    else:
        assert body.token_id is not None
        kind, value = Kind.TOKEN, body.token_id
    denial = await services.denials.deny(
        admin.id,
        kind,
        value,
        reason=body.reason,
        until=body.until,
        act=Act(_actor(request, admin), f"{kind.value}.denied", target=value),
    )
    return DenialView.of(denial)


@router.get("/denials", summary="Who is shut out?")
async def list_denials(
    admin: CurrentAdmin,  # noqa: ARG001 - nobody else may ask
    services: CurrentServices,
    page: PageWanted,
    value: Annotated[str | None, Query(max_length=255, description="Only those of this user or token.")] = None,
) -> DenialPage:
    """Denials that hold, logouts too, the newest first."""
    denials = await services.denials.page(page.limit, page.offset, value=value)
    return DenialPage(items=[DenialView.of(denial) for denial in denials], limit=page.limit, offset=page.offset)


@router.delete("/denials/{denial_id}", summary="Let in again", status_code=HTTPStatus.NO_CONTENT)
async def lift(
    request: Request,
    denial_id: Annotated[UUID, Depends(_denial_id)],
    admin: CurrentAdmin,
    services: CurrentServices,
) -> Response:
    """Whoever was shut out by it is let in within seconds, if no other denial holds."""
    act = Act(_actor(request, admin), "denial.lifted", target=to_wire(Prefix.DENIAL, denial_id))
    if not await services.denials.lift(admin.id, denial_id, act):
        raise NotFoundError("not_found", "No such denial, or it is over.")
    return Response(status_code=HTTPStatus.NO_CONTENT)


class StateCount(BaseModel):
    """Responses of all users in a state; `oldest_seconds` is since the first of them was accepted."""

    status: Literal["queued", "in_progress"]
    count: int
    oldest_seconds: float


class Overview(BaseModel):
    """Numbers alone. What lies in the queues, and who is stuck, is told by the command line and `/metrics`."""

    open_responses: list[StateCount]
    open_purge_count: int


class AdminPurgeView(PurgeView):
    """`user_id` null: it is finished, and forgotten whose it was."""

    user_id: str | None

    @classmethod
    def of(cls, purge: Purge) -> Self:
        return cls(**PurgeView.of(purge).model_dump(), user_id=purge.user_id)


class NewPurge(BaseModel):
    user_id: Annotated[_Name, Field(description="The subject of the user's tokens.", examples=["ada"])]


class AuditEntry(BaseModel):
    """What somebody did. `outcome` is `done`, or the code of the error with which it was refused."""

    id: str
    at: datetime
    actor_kind: ActorKind
    actor: str
    action: str
    target: str | None
    details: dict[str, Any]
    request_id: str | None
    outcome: str

    @classmethod
    def of(cls, entry: Entry) -> Self:
        values = {name: getattr(entry, name) for name in cls.model_fields}
        return cls(**{**values, "id": to_wire(Prefix.AUDIT_ENTRY, entry.id)})


class AuditPage(BaseModel):
    """Newest first; `has_more`: there are others before the last of these."""

    items: list[AuditEntry]
    has_more: bool


@router.get("/overview", summary="How is the system doing?", dependencies=[FOR_ADMINS])
async def overview(database: Postgres) -> Overview:
    async with database.transaction(None) as db:
        await db.execute("select set_config('app.scope', 'dispatch', true)")
        rows = await db.fetch(
            """
            select s.status, count(j.id) as count,
                   coalesce(extract(epoch from clock_timestamp() - min(j.created_at)), 0)::double precision
                   as oldest_seconds
            from unnest(array['queued', 'in_progress']) s (status) left join jobs j on j.status = s.status
            group by s.status order by s.status desc
            """
        )
        await db.execute(_AS_ADMINISTRATOR)
        open_purge_count = await db.fetchval("select count(*) from purges where finished_at is null")
    return Overview(open_responses=[StateCount(**row) for row in rows], open_purge_count=open_purge_count)


@router.get("/users/{subject}/usage", summary="Read a user's usage", dependencies=[FOR_ADMINS])
async def read_usage_of(subject: _Subject, database: Postgres, settings: Settings) -> Usage:
    """As the user reads it under `/v1/usage`."""
    return await usage_of(database, subject, settings)


@router.post("/purges", summary="Delete everything of a user", status_code=HTTPStatus.ACCEPTED)
async def purge_user(
    request: Request, response: Response, body: NewPurge, admin: CurrentAdmin, database: Postgres
) -> AdminPurgeView:
    """For good. While one is in progress, asking again answers with that one. Shut the user out first: who may still
    talk begins a new account."""
    purge = await requested_purge(database, _actor(request, admin), body.user_id)
    view = AdminPurgeView.of(purge)
    response.headers["location"] = f"{request.url.path}/{view.id}"
    return view


@router.get("/purges/{purge_id}", summary="How far is a purge?", dependencies=[FOR_ADMINS])
async def read_purge(purge_id: PurgeId, database: Postgres) -> AdminPurgeView:
    async with database.transaction(None) as db:
        await db.execute(_AS_ADMINISTRATOR)
        purge = await get_purge(db, purge_id)
    if purge is None:
        raise NotFoundError("not_found", "No such purge.")
    return AdminPurgeView.of(purge)


@router.get("/audit_log", summary="What did administrators do?", dependencies=[FOR_ADMINS])
async def read_audit_log(
    database: Postgres,
    limit: PageLength = PAGE_LENGTH_DEFAULT,
    before: Annotated[str | None, Query(description="The id of the last entry of the page before.")] = None,
) -> AuditPage:
    cursor = None if before is None else from_wire(Prefix.AUDIT_ENTRY, before, param="before")
    async with database.transaction(None) as db:
        await db.execute(_AS_ADMINISTRATOR)
        entries = await read_log(db, before=cursor, limit=limit + 1)
    return AuditPage(items=[AuditEntry.of(entry) for entry in entries[:limit]], has_more=len(entries) > limit)


def _actor(request: Request, admin: User) -> Actor:
    return Actor(ActorKind.ADMIN, admin.id, request_id_of(request.scope))
