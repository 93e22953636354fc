"""`/v1/webhook_endpoints`: whom to tell how responses end; as OpenAI's clients know it, and a bit of ours."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeAlias
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, model_validator
from pydantic.config import JsonDict

from gateway import webhooks
from gateway.deps import CurrentServices, CurrentUser, Postgres, Settings
from gateway.intake import UserRoute
from gateway.limits import PAGE_LENGTH_DEFAULT, PageLength
from gateway.problems import V1_ERRORS
from gateway.webhooks import Change, EventType, Run
from shared.db import Row
from shared.egress import EgressPolicy
from shared.ids import Prefix, from_wire, to_wire

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=UserRoute, responses=V1_ERRORS)

NAME_CHARS_MAX = 200
_ENDPOINT_EXAMPLE: JsonDict = {
    "id": "wh_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "object": "webhook_endpoint",
    "created_at": 1772355600,
    "updated_at": 1772355600,
    "name": "my backend",
    "url": "https://hooks.example.com/parley",
    "event_types": ["response.completed", "response.failed"],
    "enabled": True,
    "disabled_reason": None,
    "failing_since": None,
}
_DELIVERY_EXAMPLE: JsonDict = {
    "id": "evt_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "object": "webhook_delivery",
    "type": "response.completed",
    "response_id": "resp_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "status": "delivered",
    "attempt_count": 1,
    "last_status": 200,
    "last_error": None,
    "created_at": 1772355600,
    "delivered_at": 1772355601,
    "next_attempt_at": None,
}

Url: TypeAlias = Annotated[
    str,
    Field(
        description="Where events are posted: `https`, and an address on the Internet.",
        examples=["https://hooks.example.com/parley"],
    ),
]
Name: TypeAlias = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=NAME_CHARS_MAX),
    Field(description="For you.", examples=["my backend"]),
]
EventTypes: TypeAlias = Annotated[
    list[EventType], Field(min_length=1, max_length=len(EventType), examples=[["response.completed"]])
]


async def _endpoint_id(endpoint_id: Annotated[str, Path(examples=["wh_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.WEBHOOK, endpoint_id, param="endpoint_id")


async def _after_endpoint(
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
) -> UUID | None:
    return None if after is None else from_wire(Prefix.WEBHOOK, after, param="after")


async def _after_delivery(
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
) -> UUID | None:
    return None if after is None else from_wire(Prefix.WEBHOOK_EVENT, after, param="after")


async def _egress_policy(settings: Settings) -> EgressPolicy:
    return EgressPolicy.of(settings)


EndpointId = Annotated[UUID, Depends(_endpoint_id)]
AfterEndpoint = Annotated[UUID | None, Depends(_after_endpoint)]
AfterDelivery = Annotated[UUID | None, Depends(_after_delivery)]
Egress = Annotated[EgressPolicy, Depends(_egress_policy)]


class NewEndpoint(BaseModel):
    url: Url
    name: Name = ""
    event_types: EventTypes = list(EventType)


class EndpointChange(BaseModel):
    """What to change; what is left out stays as it is. `enabled` is ours."""

    url: Url = ""
    name: Name = ""
    event_types: EventTypes = list(EventType)
    enabled: StrictBool = True

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of: " + ", ".join(type(self).model_fields))
        return self


class Rotation(BaseModel):
    keep_old_secret_active_for_24_hours: Annotated[
        StrictBool, Field(description="Sign with both secrets for a day, so that receivers can follow.")
    ] = False


class DisabledReason(StrEnum):
    BY_USER = "by_user"
    GONE = "gone"
    FAILING = "failing"


class Endpoint(BaseModel):
    """`enabled` and what follows are ours; OpenAI's clients ignore them."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ENDPOINT_EXAMPLE]})

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EventType]
    enabled: bool
    disabled_reason: Annotated[
        DisabledReason | None,
        Field(description="`by_user`; `gone`: it answered 410; `failing`: it did nothing but fail for days."),
    ]
    failing_since: int | None

    @classmethod
    def of(cls, row: Row, **more: Any) -> Self:
        return cls(
            id=to_wire(Prefix.WEBHOOK, row["id"]),
            created_at=int(row["created_at"].timestamp()),
            updated_at=int(row["updated_at"].timestamp()),
            name=row["name"],
            url=row["url"],
            event_types=row["event_types"],
            enabled=row["disabled_reason"] is None,
            disabled_reason=row["disabled_reason"],
            failing_since=_seconds(row["failing_since"]),
            **more,
        )


class EndpointWithSecret(Endpoint):
    """`signing_secret` is told this once."""

    signing_secret: Annotated[str, Field(examples=["whsec_…"])]


class EndpointDeleted(BaseModel):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class EndpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Endpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeliveryStatus(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


class Delivery(BaseModel):
    """An event on its way to an endpoint. `id` is the event's, sent as `webhook-id` at every attempt."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DELIVERY_EXAMPLE]})

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    type: EventType
    response_id: str
    status: DeliveryStatus
    attempt_count: int
    last_status: Annotated[int | None, Field(description="The HTTP status of the last answer.")]
    last_error: Annotated[
        str | None, Field(description="Where there was none: `timeout`, `connection_failed` or `address_refused`.")
    ]
    created_at: int
    delivered_at: int | None
    next_attempt_at: int | None

    @classmethod
    def of(cls, row: Row) -> Self:
        waits_or_not = DeliveryStatus.WAITING if row["next_attempt_at"] else DeliveryStatus.GIVEN_UP
        return cls(
            id=to_wire(Prefix.WEBHOOK_EVENT, row["event_id"]),
            type=row["type"],
            response_id=to_wire(Prefix.RESPONSE, row["job_id"]),
            status=DeliveryStatus.DELIVERED if row["delivered_at"] else waits_or_not,
            attempt_count=row["attempts"],
            last_status=row["last_status"],
            last_error=row["last_error"],
            created_at=int(row["created_at"].timestamp()),
            delivered_at=_seconds(row["delivered_at"]),
            next_attempt_at=_seconds(row["next_attempt_at"]),
        )


class DeliveryList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Delivery]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EventType]


@router.get("/webhook_event_types", summary="List the types of events")
async def list_event_types(_user: CurrentUser) -> EventTypeList:
    return EventTypeList(data=list(EventType))


@router.post("/webhook_endpoints", summary="Create a webhook endpoint")
async def create_endpoint(
    user: CurrentUser, services: CurrentServices, egress: Egress, new: NewEndpoint
) -> EndpointWithSecret:
    """From now on it is told how your responses end. Note the `signing_secret`: it is never shown again."""
    secret = webhooks.new_secret()
    row = await webhooks.create_endpoint(
        services.database,
        user.id,
        url=egress.checked_url(new.url, param="url"),
        name=new.name,
        event_types=_without_repeats(new.event_types),
        secret=secret,
        count_max=services.settings.webhook_endpoints_per_user_max,
    )
    return EndpointWithSecret.of(row, signing_secret=secret)


@router.get("/webhook_endpoints", summary="List webhook endpoints")
async def list_endpoints(
    user: CurrentUser, database: Postgres, after: AfterEndpoint, limit: PageLength = PAGE_LENGTH_DEFAULT
) -> EndpointList:
    """Yours, newest first."""
    run = await webhooks.list_endpoints(database, user.id, after=after, limit=limit)
    data = [Endpoint.of(row) for row in run.rows]
    return EndpointList(data=data, **_ends([one.id for one in data], run))


@router.get("/webhook_endpoints/{endpoint_id}", summary="Retrieve a webhook endpoint")
async def retrieve_endpoint(user: CurrentUser, database: Postgres, endpoint_id: EndpointId) -> Endpoint:
    return Endpoint.of(await webhooks.read_endpoint(database, user.id, endpoint_id))


@router.post("/webhook_endpoints/{endpoint_id}", summary="Change a webhook endpoint")
async def update_endpoint(
    user: CurrentUser, database: Postgres, egress: Egress, endpoint_id: EndpointId, wanted: EndpointChange
) -> Endpoint:
    """What waits is sent to the new URL. An endpoint that was disabled is tried again with `enabled: true`."""
    values = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if "url" in values:
        values["url"] = egress.checked_url(wanted.url, param="url")
    if "event_types" in values:
        values["event_types"] = _without_repeats(wanted.event_types)
    return Endpoint.of(await webhooks.change_endpoint(database, user.id, endpoint_id, Change(**values)))


@router.delete("/webhook_endpoints/{endpoint_id}", summary="Delete a webhook endpoint")
async def delete_endpoint(user: CurrentUser, database: Postgres, endpoint_id: EndpointId) -> EndpointDeleted:
    """For good, with what it was still to be told."""
    await webhooks.delete_endpoint(database, user.id, endpoint_id)
    return EndpointDeleted(id=to_wire(Prefix.WEBHOOK, endpoint_id))


@router.post("/webhook_endpoints/{endpoint_id}/rotate_secret", summary="Make a new signing secret")
async def rotate_secret(
    user: CurrentUser, database: Postgres, endpoint_id: EndpointId, rotation: Rotation | None = None
) -> EndpointWithSecret:
    """The old one signs no more, unless it is kept for a day. Note the new one: it is never shown again."""
    secret = webhooks.new_secret()
    keeps_old_one = rotation is not None and rotation.keep_old_secret_active_for_24_hours
    row = await webhooks.rotate_secret(database, user.id, endpoint_id, secret=secret, keeps_old_one=keeps_old_one)
    return EndpointWithSecret.of(row, signing_secret=secret)


@router.get("/webhook_endpoints/{endpoint_id}/deliveries", summary="List the last deliveries")
async def list_deliveries(
    user: CurrentUser,
    database: Postgres,
    endpoint_id: EndpointId,
    after: AfterDelivery,
    limit: PageLength = PAGE_LENGTH_DEFAULT,
) -> DeliveryList:
    """Of the last days, newest first. (Not part of OpenAI's API.)"""
    run = await webhooks.list_deliveries(database, user.id, endpoint_id, after=after, limit=limit)
    data = [Delivery.of(row) for row in run.rows]
    return DeliveryList(data=data, **_ends([one.id for one in data], run))


def _ends(ids: Sequence[str], run: Run) -> dict[str, Any]:
    return {
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": run.has_more,
    }


def _without_repeats(event_types: Sequence[EventType]) -> list[EventType]:
    return list(dict.fromkeys(event_types))


def _seconds(time: Any) -> int | None:
    return None if time is None else int(time.timestamp())
