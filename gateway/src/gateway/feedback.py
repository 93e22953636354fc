"""What users think of answers: one rating for each response, with a reason or none.

Other tabs and devices are told by the database, in the transaction of the change.
"""

from enum import StrEnum
from typing import Any
from uuid import UUID

from gateway import metrics
from shared.db import Database, Row
from shared.errors import NotFoundError


class Rating(StrEnum):
    POSITIVE = "positive"
    NEGATIVE = "negative"


async def give_feedback(database: Database, user_id: str, response_id: UUID, rating: Rating, reason: str | None) -> Row:
    """The feedback, in the place of any that was given before. Raises NotFoundError for the response."""
    async with database.transaction(user_id) as db:
        response = await _lock_response(db, user_id, response_id)
        row = await db.fetchrow(
            """
            insert into feedback (job_id, conversation_id, user_id, rating, reason) values ($1, $2, $3, $4, $5)
            on conflict (job_id) do update
            set rating = excluded.rating, reason = excluded.reason, updated_at = clock_timestamp()
            returning job_id, conversation_id, user_id, rating, reason, created_at, updated_at
            """,
            response_id,
            response["conversation_id"],
            user_id,
            rating.value,
            reason,
        )
    assert row["user_id"] == user_id, "a row of another user"
    if response["rating"] != rating:
        metrics.FEEDBACK.labels(rating.value).inc()
    return row


async def read_feedback(database: Database, user_id: str, response_id: UUID) -> Row:
    """Raises NotFoundError for the response, and where no feedback was given."""
    async with database.transaction(user_id) as db:
        row = await _find_response(db, user_id, response_id)
    if row["rating"] is None:
        raise NotFoundError("not_found", "No feedback was given on this response.")
    return row


async def take_back_feedback(database: Database, user_id: str, response_id: UUID) -> UUID:
    """Delete the feedback, if any was given; the conversation of its response. Raises NotFoundError for that."""
    async with database.transaction(user_id) as db:
        response = await _lock_response(db, user_id, response_id)
        await db.execute("delete from feedback where job_id = $1 and user_id = $2", response_id, user_id)
    conversation_id: UUID = response["conversation_id"]
    return conversation_id


async def _lock_response(db: Any, user_id: str, response_id: UUID) -> Row:
    """As `_find_response`. The conversation is locked before anything else: the change adds an event to it."""
    return await _find_response(db, user_id, response_id, "for no key update of c")


async def _find_response(db: Any, user_id: str, response_id: UUID, lock: str = "") -> Row:
    """The response, with the columns of its feedback, null where none was given. Raises NotFoundError."""
    row = await db.fetchrow(
        f"""
        select j.id as job_id, j.conversation_id, j.user_id, f.rating, f.reason, f.created_at, f.updated_at from jobs j
        join conversations c on c.id = j.conversation_id and c.user_id = $2 and c.deleted_at is null
        left join feedback f on f.job_id = j.id and f.user_id = $2
        where j.id = $1 and j.user_id = $2 and j.deleted_at is null and j.store and not c.is_ephemeral {lock}
        """,  # noqa: S608 - constants
        response_id,
        user_id,
    )
    if row is None:
        raise NotFoundError("not_found", "No such response.")
    assert row["user_id"] == user_id, "a row of another user"
    return row
