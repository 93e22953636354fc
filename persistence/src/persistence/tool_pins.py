"""What tool servers say of their tools against what was accepted of it: what the operator's commands show and change.

The workers see the tools (`see_tools`); what is accepted here they take with their next list of the server's tools.
"""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from shared.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class PinnedTool:
    """A tool on record. `is_changed`: what its server said last is not what was accepted; `is_new`: nothing was."""

    server: str
    tool: str
    is_changed: bool
    is_new: bool
    accepted_digest: str | None
    seen_digest: str
    seen_at: datetime
    change_count: int


@dataclass(frozen=True, slots=True)
class ServerChanges:
    """Of one tool server: how often its tools changed, and how many wait to be accepted."""

    server: str
    change_count: int
    waiting_count: int


async def pinned_tools(connection: asyncpg.Connection, server: str | None = None) -> list[PinnedTool]:
    """The tools of `server`, or of all; those that wait to be accepted come first."""
    rows = await connection.fetch(
        """
        select server, tool, accepted_digest is distinct from seen_digest as is_changed,
               accepted_digest is null as is_new, accepted_digest, seen_digest, seen_at, change_count
        from tool_pins where $1::text is null or server = $1
        order by accepted_digest is distinct from seen_digest desc, server, tool
        """,
        server,
    )
    return [PinnedTool(**dict(row)) for row in rows]


async def accept(connection: asyncpg.Connection, server: str, tool: str | None, digest: str | None) -> list[str]:
    """Trust what `server` said last of `tool`, or of all its tools; returns the names of those that had changed.

    With a `digest` only if that is what it said last: who looked at one thing does not accept another.
    Raises NotFoundError where nothing that is on record is meant.
    """
    known = await connection.fetchval(
        """
        select count(*) from tool_pins
        where server = $1 and ($2::text is null or tool = $2) and ($3::text is null or seen_digest = $3)
        """,
        server,
        tool,
        digest,
    )
    if not known:
        raise NotFoundError("tool_not_found", "no such tool is on record; see: ops tools list")
    rows = await connection.fetch(
        """
        update tool_pins set accepted_digest = seen_digest, accepted_at = clock_timestamp()
        where server = $1 and ($2::text is null or tool = $2) and ($3::text is null or seen_digest = $3)
          and accepted_digest is distinct from seen_digest
        returning tool
        """,
        server,
        tool,
        digest,
    )
    return sorted(row["tool"] for row in rows)


async def forget(connection: asyncpg.Connection, server: str) -> int:
    """Take everything of `server` off the record, so that what it says next is trusted; returns of how many tools.

    Raises NotFoundError where there is nothing.
    """
    count = len(await connection.fetch("delete from tool_pins where server = $1 returning tool", server))
    if not count:
        raise NotFoundError("tool_not_found", "no tool of this server is on record; see: ops tools list")
    return count


async def changes(connection: asyncpg.Connection) -> list[ServerChanges]:
    """Every server that is on record."""
    rows = await connection.fetch(
        """
        select server, sum(change_count)::bigint as change_count,
               count(*) filter (where accepted_digest is distinct from seen_digest) as waiting_count
        from tool_pins group by server order by server
        """
    )
    return [ServerChanges(**dict(row)) for row in rows]
