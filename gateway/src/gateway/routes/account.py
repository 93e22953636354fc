"""`/api/{user_id}`: all that is stored of a user, to take along or to delete."""

import asyncio
from contextlib import ExitStack, aclosing
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from gateway.auth import User
from gateway.deps import CurrentServices, PathUser, Postgres, Services
from gateway.export import export, started
from gateway.intake import UserRoute
from gateway.limits import Slot
from gateway.problems import API_ERRORS, request_id_of
from shared.db import Database
from shared.db.audit import Act, Actor, ActorKind, audited
from shared.db.purges import Purge, find_purge, request_purge
from shared.errors import InvalidInputError, NotAuthenticatedError, NotFoundError, PermissionDeniedError
from shared.ids import Prefix, from_wire, to_wire
from shared.observability import get_logger

log = get_logger()

router = APIRouter(prefix="/{user_id}", tags=["account"], route_class=UserRoute, responses=API_ERRORS)


class Confirmation(BaseModel):
    confirm: Annotated[str, Field(description="The user's id, so that nobody does this by accident.", examples=["ada"])]


class PurgeView(BaseModel):
    """A request to delete everything of a user. `deleted` counts what is gone so far, by table."""

    id: Annotated[str, Field(examples=["purge_0199c3f2a4d87b3f8e5d2c1b0a998877"])]
    status: Literal["in_progress", "finished"]
    deleted: dict[str, int]
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, purge: Purge) -> Self:
        return cls(
            id=to_wire(Prefix.PURGE, purge.id),
            status="finished" if purge.finished_at else "in_progress",
            deleted=purge.deleted,
            created_at=purge.created_at,
            finished_at=purge.finished_at,
        )


async def _purge_id(purge_id: Annotated[str, Path(examples=["purge_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.PURGE, purge_id, param="purge_id")


PurgeId = Annotated[UUID, Depends(_purge_id)]


@router.get(
    "/export",
    summary="Export everything of yours",
    response_model=None,
    responses={200: {"content": {"application/json": {}}, "description": "One JSON document, as it is read."}},
)
async def export_account(request: Request, user: PathUser, services: CurrentServices) -> Response:
    """What is archived or deleted, and not gone yet, is in it. One that breaks off is no valid JSON. A few an hour."""
    with ExitStack() as held:
        slot = held.enter_context(services.exports.take(user.id))
        services.export_rates.spend(user.id)  # each is on record, see below
        actor = Actor(ActorKind.USER, user.id, request_id_of(request.scope))
        async with audited(services.database, started(actor, user.id)):
            pass
        answer = _Export(services, user, slot)
        held.pop_all()
    return answer


@router.delete("", summary="Delete everything of yours", status_code=HTTPStatus.ACCEPTED)
async def purge_account(
    request: Request, response: Response, user: PathUser, services: CurrentServices, confirmation: Confirmation
) -> PurgeView:
    """For good, within a minute or so; `Location` tells how far it is. What you write meanwhile goes, too.

    While one is in progress, asking again answers with that one.
    """
    if confirmation.confirm != user.id:
        raise InvalidInputError("not_confirmed", "confirm: must be your own user id.", param="confirm")
    actor = Actor(ActorKind.USER, user.id, request_id_of(request.scope))
    view = PurgeView.of(await requested_purge(services.database, actor, user.id))
    response.headers["location"] = f"{request.url.path}/purges/{view.id}"
    return view


@router.get("/purges/{purge_id}", summary="How far is the deletion?")
async def read_purge(user: PathUser, database: Postgres, purge_id: PurgeId) -> PurgeView:
    async with database.transaction(user.id) as db:
        purge = await find_purge(db, user.id, purge_id)
    if purge is None:
        raise NotFoundError("not_found", "No such purge.")
    return PurgeView.of(purge)


async def requested_purge(database: Database, actor: Actor, user_id: str) -> Purge:
    """The open purge of the user, from now on at least; persistence finds it."""
    act = Act(actor, "user.purge_requested", target=user_id)
    async with audited(database, act, user_id) as connection:
        purge = await request_purge(connection, user_id, actor.kind)
        act.details["purge_id"] = str(purge.id)
        # Users ask as often as they like, and of the log nobody may delete anything for a month.
        act.is_on_record = actor.kind is ActorKind.USER and not purge.is_new
    return purge


class _Export(Response):
    """An export on its way; `slot` is given back at the end.

    It breaks off for a reader that takes nothing, and once the user is shut out.
    """

    def __init__(self, services: Services, user: User, slot: Slot) -> None:
        super().__init__(
            headers={
                "content-disposition": 'attachment; filename="export.json"',
                "cache-control": "private, no-store",
            },
            media_type="application/json",
        )
        del self.headers["content-length"]
        self._services = services
        self._user = user
        self._slot = slot

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        with self._slot:
            try:
                async with self._services.denials.guarded(self._user):
                    await self._send_all(send)
            except TimeoutError:
                log.info("export_closed", cause="slow reader")
                raise
            except (NotAuthenticatedError, PermissionDeniedError) as error:
                log.info("export_closed", cause=error.code)
                raise

    async def _send_all(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(export(self._services.database, self._user.id)) as pieces:
            async for body in pieces:
                await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Any) -> None:
        async with asyncio.timeout(self._services.settings.send_timeout_seconds):
            await send(message)
