"""What a user changes about conversations. (Turns are accepted in `turns.py`, tasks change in `shared.db.tasks`.)"""

from collections.abc import Sequence
from uuid import UUID

from gateway.queries import CONVERSATION_COLUMNS, conversation_not_found, found_conversation
from gateway.views import ConversationView
from shared.db import Database
from shared.ids import uuid7


async def create_conversation(database: Database, user_id: str, *, metadata: dict[str, str]) -> ConversationView:
    """A conversation without messages; the first one will give it its title."""
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            insert into conversations (id, user_id, metadata) values ($1, $2, $3)
            returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            uuid7(),
            user_id,
            metadata,
        )
    return found_conversation(row, user_id)


async def change_conversation(
    database: Database,
    user_id: str,
    conversation_id: UUID,
    *,
    title: str | None = None,
    metadata: dict[str, str] | None = None,
) -> ConversationView:
    """Change what is given, leave what is None. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            update conversations
            set title = coalesce($3, title), metadata = coalesce($4, metadata), updated_at = clock_timestamp()
            where id = $1 and user_id = $2 and deleted_at is null
            returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
            title,
            metadata,
        )
    return found_conversation(row, user_id)


async def delete_conversation(database: Database, user_id: str, conversation_id: UUID) -> Sequence[UUID]:
    """Hide the conversation with all it holds until it is restored; the jobs that are to be stopped for it.

    Raises NotFoundError.
    """
    async with database.transaction(user_id) as db:
        found = await db.fetchval(
            """
            update conversations set deleted_at = clock_timestamp()
            where id = $1 and user_id = $2 and deleted_at is null returning id
            """,
            conversation_id,
            user_id,
        )
        if found is None:
            raise conversation_not_found()
        rows = await db.fetch(
            """
            update jobs set cancel_requested_at = clock_timestamp()
            where id in (select id from jobs
                         where conversation_id = $1 and user_id = $2 and status in ('queued', 'in_progress')
                           and cancel_requested_at is null
                         order by id for no key update)
            returning id
            """,
            conversation_id,
            user_id,
        )
    return [row["id"] for row in rows]


async def restore_conversation(database: Database, user_id: str, conversation_id: UUID) -> ConversationView:
    """Bring a deleted conversation back; one that is not deleted stays as it is. Raises NotFoundError.

    What was queued or running when it was deleted was stopped then, and stays so.
    """
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            update conversations set deleted_at = null
            where id = $1 and user_id = $2 returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
        )
    return found_conversation(row, user_id)
