"""`/health`: for whoever starts, watches and replaces this process. No token is needed."""

import asyncio
from http import HTTPStatus
from typing import Literal
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from gateway.deps import CurrentServices
from shared.db import Database
from shared.errors import DatabaseUnavailableError

router = APIRouter(prefix="/health", tags=["health"])

_PING_SECONDS = 3.0  # less than a probe waits
_looks: WeakKeyDictionary[Database, asyncio.Task[bool]] = WeakKeyDictionary()


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class Dependencies(BaseModel):
    postgres: Literal["up", "down"]
    rabbitmq: Literal["up", "down"]


class Readiness(BaseModel):
    """`degraded`: messages are accepted, and answered when RabbitMQ is back. `stopping`: go to another gateway."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ok", "dependencies": {"postgres": "up", "rabbitmq": "up"}}]}
    )

    status: Literal["ok", "degraded", "unavailable", "stopping"]
    dependencies: Dependencies


@router.get("/live", summary="Does the process run?")
async def live() -> Liveness:
    return Liveness()


@router.get(
    "/ready",
    summary="Can it serve?",
    responses={503: {"model": Readiness, "description": "Postgres is away, or the process is told to stop."}},
)
async def ready(request: Request, services: CurrentServices, response: Response) -> Readiness:
    """503 without Postgres, and from the moment on when the process is told to stop.

    Without RabbitMQ it is ready: accepted messages wait in Postgres.
    """
    has_postgres, has_rabbitmq = await _answers(services.database), services.publisher.is_up
    is_stopping = request.app.state.stopping.is_set()
    if is_stopping or not has_postgres:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    reachable: Literal["ok", "degraded"] = "ok" if has_rabbitmq else "degraded"
    return Readiness(
        status="stopping" if is_stopping else reachable if has_postgres else "unavailable",
        dependencies=Dependencies(postgres="up" if has_postgres else "down", rabbitmq="up" if has_rabbitmq else "down"),
    )


async def _answers(database: Database) -> bool:
    """One look for all who ask meanwhile: anybody may, as often as they like, and connections are few."""
    look = _looks.get(database)
    if look is None or look.done():
        look = _looks[database] = asyncio.create_task(_look(database))
    return await asyncio.shield(look)


async def _look(database: Database) -> bool:
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await database.ping()
    except (DatabaseUnavailableError, TimeoutError):
        return False
    return True
