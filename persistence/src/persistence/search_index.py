"""The words of messages get into the search's index, soon after the messages are stored.

It is what costs most of storing a message, and nobody waits for it: until it is done a search looks at the message
itself. So it leaves Postgres to others for most of the time, however much there is to do.
"""

import asyncio

from persistence import counts
from shared.db import Database
from shared.db.errors import described
from shared.errors import DatabaseUnavailableError
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

LOCK = 7214004  # of Postgres; any number that nothing else in the database locks

_BYTES_MAX = 256 * 2**10  # of content, at a time; more only where one message has more
_LOCK_SECONDS = 0.1  # for messages that are being deleted: long before Postgres would look for a deadlock
_REST = 3.0  # times as long as it took, before it goes on with more


class SearchIndex:
    """Indexes what is not indexed yet, until stopped; one process at a time does it."""

    def __init__(self, database: Database, *, round_seconds: float, messages_max: int) -> None:
        """`messages_max` are indexed at a time; where there are fewer, the next look is after `round_seconds`."""
        self._database = database
        self._round_seconds = round_seconds
        self._messages_max = messages_max
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "search index")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> bool:
        """Index the oldest messages, unless another process is at it; returns whether there may be more of them.

        Raises DatabaseUnavailableError, also where one of them is just being deleted.
        """
        async with self._database.transaction(None) as connection:
            is_free = await connection.fetchval(
                "select pg_try_advisory_xact_lock($1) from set_config('lock_timeout', $2, true)",
                LOCK,
                str(round(_LOCK_SECONDS * 1_000)),
            )
            if not is_free:
                return False
            # What somebody has deleted meanwhile is not among those that were taken.
            row = await connection.fetchrow(
                """
                with next as materialized (
                    select u.message_id, sum(octet_length(m.content)) over before_it as bytes_before
                    from (select message_id from unindexed_messages order by message_id limit $1) u
                    join messages m on m.id = u.message_id
                    window before_it as (order by u.message_id rows between unbounded preceding and 1 preceding)
                ), taken as (
                    delete from unindexed_messages
                    where message_id = any(array(
                        select message_id from next where bytes_before is null or bytes_before < $2))
                    returning message_id
                ), indexed as (
                    insert into message_words (message_id, conversation_id, user_id, words)
                    select id, conversation_id, user_id, words_of(user_id, content) from messages
                    where id = any(array(select message_id from taken))
                    on conflict (message_id) do nothing
                )
                select (select count(*) from taken) as count, (select count(*) from next) as next_count
                """,
                self._messages_max,
                _BYTES_MAX,
            )
        assert row is not None
        counts.MESSAGES_INDEXED.inc(row["count"])
        return bool(row["next_count"] == self._messages_max or row["next_count"] > row["count"])

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began_at, is_behind = clock(), False
            try:
                is_behind = await self.run_once()
            except DatabaseUnavailableError:
                pass  # said already; there is no hurry
            except Exception as error:  # noqa: BLE001
                log.error("search_index_failed", **described(error))  # noqa: TRY400 - a traceback may quote what rows hold
            rest = _REST * (clock() - began_at)
            await asyncio.sleep(rest if is_behind else max(rest, self._round_seconds))
