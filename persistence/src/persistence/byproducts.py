"""What attempts make beside answers: summaries of long conversations, and titles.

Nobody waits for them, and each may be lost: a summary is made again when it is missed, a title is not missed. So what
does not agree with the rows is left out, in silence but for the log.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

import asyncpg

from shared.contracts import ConversationSummarised, TitleSuggested, Touched
from shared.observability import get_logger

log = get_logger()

Byproduct: TypeAlias = ConversationSummarised | TitleSuggested


def conversations_of(byproducts: Iterable[Byproduct]) -> set[UUID]:
    """The conversations that must be locked before `byproducts` are stored."""
    conversation_ids: set[UUID] = set()
    for byproduct in byproducts:
        conversation_ids.add(byproduct.conversation_id)
        if isinstance(byproduct, ConversationSummarised):
            conversation_ids.update(byproduct.conversation_ids)
    return conversation_ids


async def store_summaries(connection: asyncpg.Connection, byproducts: Sequence[Byproduct]) -> None:
    """Store the summaries, whose conversations are locked. One that is there already stays as it is."""
    for summary in byproducts:
        if isinstance(summary, ConversationSummarised):
            status = await _insert_summary(connection, summary)
            log.info("summary_stored" if status == "INSERT 0 1" else "summary_left_out", job_id=str(summary.job_id))


async def _insert_summary(connection: asyncpg.Connection, summary: ConversationSummarised) -> str:
    """The turn has to be that user's and in that conversation, and so all conversations that it tells of.

    Where an item was deleted since they were read, the summary may tell of it.
    """
    status: str = await connection.execute(
        """
        insert into summaries (job_id, conversation_id, user_id, turn, conversation_ids, text, token_count,
                               covers_turn_count)
        select id, conversation_id, user_id, turn, $4::uuid[], $6, $7, $8
        from jobs
        where id = $1 and conversation_id = $2 and user_id = $3 and conversation_id = any($4::uuid[])
          and (select count(*) = cardinality($4::uuid[]) and sum(deleted_item_count) = $5::bigint
               from conversations where id = any($4::uuid[]) and user_id = $3)
        on conflict do nothing
        """,
        summary.job_id,
        summary.conversation_id,
        summary.user_id,
        summary.conversation_ids,
        summary.deleted_item_count,
        summary.text,
        summary.token_count,
        summary.covers_turn_count,
    )
    return status


async def set_titles(connection: asyncpg.Connection, byproducts: Sequence[Byproduct]) -> list[TitleSuggested]:
    """Give the conversations, which are locked, the titles that nobody chose yet; those that are set, each once."""
    titles = [byproduct for byproduct in byproducts if isinstance(byproduct, TitleSuggested)]
    return [title for title in titles if await _set_title(connection, title)]


async def _set_title(connection: asyncpg.Connection, title: TitleSuggested) -> bool:
    status: str = await connection.execute(
        """
        update conversations set title = $3, title_source = 'model'
        where id = $1 and user_id = $2 and title_source = 'message' and deleted_at is null and not is_ephemeral
        """,
        title.conversation_id,
        title.user_id,
        title.title,
    )
    return status == "UPDATE 1"


def touched(title: TitleSuggested) -> Touched:
    return Touched(conversation_id=title.conversation_id, user_id=title.user_id, what="conversation.updated")
