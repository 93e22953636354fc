"""How many tokens a user's answers used, day by day."""

from dataclasses import dataclass
from datetime import date

from shared.db import Database
from shared.errors import LimitExceededError

USAGE_DAYS = 30


@dataclass(frozen=True, slots=True)
class DayUsage:
    """Of the responses that ended on `day`, in UTC."""

    day: date
    response_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


async def quota_spent(database: Database) -> LimitExceededError:
    """What a user is told who has spent today's tokens. The day is that of Postgres, where they are counted."""
    async with database.connection() as connection:
        seconds_left = await connection.fetchval(
            """
            select extract(epoch from date_trunc('day', n.now) + interval '1 day' - n.now)::float8
            from (select clock_timestamp() at time zone 'utc' as now) n
            """
        )
    return LimitExceededError(
        "daily_token_quota_exceeded",
        "Your answers have used all the tokens that they may use in a day; the next day begins at 0:00 UTC.",
        retry_after_seconds=seconds_left,
    )


async def read_usage(database: Database, user_id: str) -> list[DayUsage]:
    """Today, which is always there, and before it those of the last days that have some; newest first."""
    async with database.transaction(user_id) as db:
        today = await db.fetchval("select (clock_timestamp() at time zone 'utc')::date")
        rows = await db.fetch(
            """
            select day, response_count, input_tokens, output_tokens from usage_by_day
            where user_id = $1 and day > $2::date - $3::integer order by day desc
            """,
            user_id,
            today,
            USAGE_DAYS,
        )
    days = [DayUsage(**row) for row in rows]
    return days if days and days[0].day == today else [DayUsage(today), *days]
