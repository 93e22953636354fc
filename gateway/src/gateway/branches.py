"""The tree that a conversation's turns are: which of them a branch holds, and what else was answered in its place.

A branch is a chain of turns, each the parent of the next. The active one ends at the conversation's head; a new turn
follows it. A conversation that never forked is a single branch, and none of this is asked.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

from shared.db import Row
from shared.errors import NotFoundError
from shared.events import JsonObject
from shared.ids import Prefix, to_wire


class Whole(Enum):
    """The branches that need not be named by a response."""

    ACTIVE = "active"
    ALL = "all"


Branch: TypeAlias = Whole | UUID  # the id of a response: the branch through it, down to its newest descendant


@dataclass(frozen=True, slots=True)
class ResponsesAfter:
    """Which responses of a conversation: `limit` of them that follow the response `after`."""

    after: UUID | None
    limit: int
    is_ascending: bool


async def turns_of(db: Any, conversation: Row, branch: Branch) -> list[int] | None:
    """The turns of the branch, of a conversation with its `id`, `user_id`, `head_job_id` and `is_forked`.

    None: all there are. Raises NotFoundError where the branch is named by a response that is not the conversation's.
    """
    end: UUID | None = conversation["head_job_id"]
    if isinstance(branch, UUID):
        end = await newest_descendant(db, conversation["user_id"], conversation["id"], branch)
        if end is None:
            raise NotFoundError("not_found", "No such response in this conversation.", param="branch")
    if branch is Whole.ALL or not conversation["is_forked"]:
        return None
    rows = await db.fetch(
        """
        with recursive chain as (
            select id, parent_job_id, turn from jobs where id = $1 and conversation_id = $2 and user_id = $3
            union all
            select p.id, p.parent_job_id, p.turn from chain c join jobs p on p.id = c.parent_job_id
            where p.conversation_id = $2 and p.user_id = $3
        )
        select turn from chain
        """,
        end,
        conversation["id"],
        conversation["user_id"],
    )
    return [row["turn"] for row in rows]


async def newest_descendant(db: Any, user_id: str, conversation_id: UUID, job_id: UUID) -> UUID | None:
    """The response that was accepted last of those that follow the given one, directly or not; itself where none does.

    None where the conversation has no such response.
    """
    newest: UUID | None = await db.fetchval(
        """
        with recursive descendants as (
            select id, turn from jobs
            where id = $1 and conversation_id = $2 and user_id = $3 and deleted_at is null
            union all
            select j.id, j.turn from descendants d join jobs j on j.parent_job_id = d.id
            where j.conversation_id = $2 and j.user_id = $3
        )
        select id from descendants order by turn desc limit 1
        """,
        job_id,
        conversation_id,
        user_id,
    )
    return newest


async def is_busy(db: Any, user_id: str, conversation_id: UUID) -> bool:
    """Whether a response of the conversation is queued or running: its tree still grows."""
    found: bool = await db.fetchval(
        """
        select exists (select from jobs where conversation_id = $1 and user_id = $2
                                          and status in ('queued', 'in_progress'))
        """,
        conversation_id,
        user_id,
    )
    return found


async def list_responses(db: Any, conversation: Row, wanted: ResponsesAfter) -> list[JsonObject]:
    """One response more than the limit, where there are so many. Raises NotFoundError where there is no `after`."""
    user_id, conversation_id = conversation["user_id"], conversation["id"]
    beyond, direction = (">", "asc") if wanted.is_ascending else ("<", "desc")
    turn = 0 if wanted.is_ascending else 2**31 - 1
    if wanted.after is not None:
        turn = await db.fetchval(
            "select turn from jobs where id = $1 and conversation_id = $2 and user_id = $3 and deleted_at is null",
            wanted.after,
            conversation_id,
            user_id,
        )
        if turn is None:
            raise NotFoundError("not_found", "No such response in this conversation.", param="after")
    rows = await db.fetch(
        f"""
        select j.id, j.user_id, j.parent_job_id, j.turn, j.status, j.created_at, f.rating, f.reason
        from jobs j left join feedback f on f.job_id = j.id and f.user_id = $2
        where j.conversation_id = $1 and j.user_id = $2 and j.deleted_at is null and j.turn {beyond} $3
        order by j.turn {direction} limit $4
        """,  # noqa: S608 - constants
        conversation_id,
        user_id,
        turn,
        wanted.limit + 1,
    )
    active = await turns_of(db, conversation, Whole.ACTIVE)
    active_turns = None if active is None else frozenset(active)
    siblings = await _siblings(db, conversation, rows)
    return [
        {
            "id": to_wire(Prefix.RESPONSE, row["id"]),
            "previous_response_id": to_wire(Prefix.RESPONSE, row["parent_job_id"]) if row["parent_job_id"] else None,
            "status": row["status"],
            "created_at": int(row["created_at"].timestamp()),
            "is_active": active_turns is None or row["turn"] in active_turns,
            "sibling_ids": [to_wire(Prefix.RESPONSE, job_id) for job_id in siblings[row["parent_job_id"]]],
            "feedback": {"rating": row["rating"], "reason": row["reason"]} if row["rating"] else None,
        }
        for row in rows
    ]


async def _siblings(db: Any, conversation: Row, jobs: Sequence[Row]) -> dict[UUID | None, list[UUID]]:
    """The children of the parents of `jobs`, oldest first."""
    siblings = defaultdict(list)
    if not conversation["is_forked"]:
        for job in jobs:
            siblings[job["parent_job_id"]].append(job["id"])
        return siblings
    parents = {job["parent_job_id"] for job in jobs}
    rows = await db.fetch(
        """
        select id, parent_job_id, turn from jobs
        where parent_job_id = any($3) and conversation_id = $1 and user_id = $2 and deleted_at is null
        union all
        select id, parent_job_id, turn from jobs
        where $4 and parent_job_id is null and conversation_id = $1 and user_id = $2 and deleted_at is null
        order by turn
        """,
        conversation["id"],
        conversation["user_id"],
        [parent for parent in parents if parent],
        None in parents,
    )
    for row in rows:
        siblings[row["parent_job_id"]].append(row["id"])
    return siblings
