"""`GET /v1/usage`: what a user's answers used, and what is left of the day's tokens. (Not part of OpenAI's API.)"""

from datetime import date

from fastapi import APIRouter
from pydantic import BaseModel

from gateway.deps import CurrentUser, Postgres, Settings
from gateway.intake import UserRoute
from gateway.problems import V1_ERRORS
from gateway.settings import GatewaySettings
from gateway.usage import DayUsage, read_usage
from shared.db import Database

router = APIRouter(prefix="/v1/usage", tags=["usage"], route_class=UserRoute, responses=V1_ERRORS)


class UsageOfDay(BaseModel):
    date: date
    response_count: int
    input_tokens: int
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: DayUsage) -> "UsageOfDay":
        return cls(
            date=usage.day,
            response_count=usage.response_count,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.input_tokens + usage.output_tokens,
        )


class Usage(BaseModel):
    """`days` are the last 30 days that have any usage, newest first. `tokens_per_day_max` null: there is no limit."""

    object: str = "usage"
    today: UsageOfDay
    days: list[UsageOfDay]
    tokens_per_day_max: int | None


@router.get("", summary="Read your usage")
async def retrieve_usage(user: CurrentUser, database: Postgres, settings: Settings) -> Usage:
    """Tokens that the models read and wrote for you. A day begins at 0:00 UTC."""
    return await usage_of(database, user.id, settings)


async def usage_of(database: Database, user_id: str, settings: GatewaySettings) -> Usage:
    today, *before = [UsageOfDay.of(usage) for usage in await read_usage(database, user_id)]
    days = [today, *before] if today.response_count else before
    return Usage(today=today, days=days, tokens_per_day_max=settings.tokens_per_day_max)
